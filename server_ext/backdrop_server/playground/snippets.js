// The current request as code that runs as it is. Two texts come out: the whole, and one to look at.

const PICTURES = ["image", "ref_image", "mask_image"];
const LONG = 48; // characters of base64 that are shown

/**
 * `pictures`: for each picture field its base64, and its file's name where there is one; `inline`:
 * base64 in the code, else the files are read.
 */
export function snippet(language, { origin, values, pictures, inline }) {
  const request = { url: `${origin}/v1/bg-replace`, values, pictures, inline };
  const code = { curl, python, javascript }[language](request);
  return { code, shown: shortened(code, pictures) };
}

function shortened(code, pictures) {
  return Object.values(pictures).reduce((text, { base64 }) => {
    if (base64.length <= LONG) return text;
    const rest = `…(${Math.ceil(base64.length / 1024)} KB)`;
    return text.replace(base64, () => base64.slice(0, LONG) + rest);
  }, code);
}

const suffixOf = (values) => (values.output_format === "jpeg" ? "jpg" : values.output_format);
const given = (pictures) => PICTURES.filter((name) => pictures[name]);

function curl({ url, values, pictures, inline }) {
  const several = values.samples > 1;
  const lines = given(pictures).map((name) => {
    const { base64, file } = pictures[name];
    return `  "${name}": "${inline || !file ? base64 : `$(base64 < ${quoted(file)} | tr -d '\\n')`}"`;
  });
  for (const [name, value] of Object.entries({ ...values, base64: several })) {
    const text = JSON.stringify(value);
    lines.push(`  "${name}": ${inline ? text : text.replace(/[\\$`]/g, "\\$&")}`);
  }
  const target = several ? "answer.json" : `picture-1.${suffixOf(values)}`;
  const body = inline ? "<<'JSON'" : "<<JSON";
  const call = [
    `curl -sS --fail-with-body -o ${target} -H "x-api-key: $BACKDROP_KEY" \\`,
    `  -H "content-type: application/json" --data-binary @- ${url} ${body}`,
    `{\n${lines.join(",\n")}\n}`,
    "JSON",
  ];
  if (several) call.push(
    "number=0",
    "grep -oE '[A-Za-z0-9+/=]{64,}' answer.json | while read -r picture; do",
    `  number=$((number + 1)); printf %s "$picture" | base64 -d > "picture-$number.${suffixOf(values)}"`,
    "done",
  );
  return call.join("\n") + "\n";
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function python({ url, values, pictures, inline }) {
  const literal = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value));
  const source = ({ base64, file }) => (inline || !file ? JSON.stringify(base64) : `text_of(${JSON.stringify(file)})`);
  const fields = [
    ...given(pictures).map((name) => [name, source(pictures[name])]),
    ...Object.entries({ ...values, base64: true }).map(([name, value]) => [name, literal(value)]),
  ];
  const reader = inline ? "" : `

def text_of(path):
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode()

`;
  return `import base64
import os

import requests
${reader}
answer = requests.post(
    ${JSON.stringify(url)},
    headers={"x-api-key": os.environ["BACKDROP_KEY"]},
    json={
${fields.map(([name, value]) => `        "${name}": ${value},`).join("\n")}
    },
    timeout=600,
)
if not answer.ok:
    raise SystemExit(answer.json()["error"])
pictures = answer.json().get("images") or [answer.json()["image"]]
for number, picture in enumerate(pictures, 1):
    with open(f"picture-{number}.${suffixOf(values)}", "wb") as file:
        file.write(base64.b64decode(picture))
`;
}

function javascript({ url, values, pictures, inline }) {
  const source = ({ base64, file }) =>
    inline || !file ? JSON.stringify(base64) : `await readFile(${JSON.stringify(file)}, "base64")`;
  const fields = [
    ...given(pictures).map((name) => [name, source(pictures[name])]),
    ...Object.entries({ ...values, base64: true }).map(([name, value]) => [name, JSON.stringify(value)]),
  ];
  return `// Node 18 or newer: save it as picture.mjs, then run: node picture.mjs
import { ${inline ? "" : "readFile, "}writeFile } from "node:fs/promises";

const answer = await fetch(${JSON.stringify(url)}, {
  method: "POST",
  headers: { "x-api-key": process.env.BACKDROP_KEY, "content-type": "application/json" },
  body: JSON.stringify({
${fields.map(([name, value]) => `    ${name}: ${value},`).join("\n")}
  }),
});
const content = await answer.json();
if (!answer.ok) throw new Error(content.error);
for (const [index, picture] of (content.images ?? [content.image]).entries()) {
  await writeFile(\`picture-\${index + 1}.${suffixOf(values)}\`, Buffer.from(picture, "base64"));
}
`;
}
