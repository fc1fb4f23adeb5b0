// Controls made of the gateway's own schema: ranges, defaults and help texts are its alone.

const FIRST = 3; // so many settings are open to the eye; the others are under "All settings"
const FINE = 20; // steps of a slider over a small range of fractions

export class Settings {
  constructor(form, onChange) {
    this.controls = form.settings.map((field, index) => {
      const control = makeControl(field);
      document.getElementById(index < FIRST ? "fields" : "more-fields").append(control.root);
      return control;
    });
    for (const [name, field] of Object.entries(form.prompts)) {
      const area = document.getElementById(name);
      area.maxLength = field.maxLength;
    }
    const root = document.getElementById("settings");
    root.addEventListener("input", onChange);
    document.getElementById("settings-reset").addEventListener("click", () => {
      for (const control of this.controls) control.set(control.field.default);
      onChange();
    });
  }

  /** All settings as the request has them; text that is empty is left out but for the prompt. */
  values() {
    const values = { prompt: document.getElementById("prompt").value.trim() };
    const negative = document.getElementById("negative_prompt").value.trim();
    if (negative) values.negative_prompt = negative;
    for (const control of this.controls) values[control.field.name] = control.get();
    return values;
  }

  /** Fill the form with the values of an earlier request. */
  fill(values) {
    for (const name of ["prompt", "negative_prompt"]) document.getElementById(name).value = values[name] ?? "";
    for (const control of this.controls) {
      if (values[control.field.name] !== undefined) control.set(values[control.field.name]);
    }
  }

  /** A sentence on the first value that is out of range; null where all are in order. */
  problem() {
    for (const { field, input, get } of this.controls) {
      if (!input.checkValidity() || Number.isNaN(get())) {
        input.focus();
        return `${field.label} must be a whole number from ${field.minimum} to ${field.maximum}.`;
      }
    }
    return null;
  }
}

const kindOf = (field) => [field.type].flat()[0];

function makeControl(field) {
  const id = `field-${field.name}`;
  const root = element("div", { className: "setting" });
  const help = element("p", { className: "note", id: `${id}-help`, textContent: field.description ?? "" });
  const label = element("label", { htmlFor: id, textContent: field.label });
  const control = { field, root, ...pick(field)(field, root, label) };
  control.input.id = id;
  control.input.name = field.name;
  control.input.setAttribute("aria-describedby", help.id);
  root.append(help);
  control.set(field.default);
  return control;
}

function pick(field) {
  if (field.enum) return makeSelect;
  if (kindOf(field) === "boolean") return makeCheckbox;
  return field.maximum - field.minimum > 1000 ? makeNumber : makeSlider;
}

function makeSlider(field, root, label) {
  const { minimum: min, maximum: max } = field;
  const whole = kindOf(field) === "integer";
  const step = whole ? 1 : max - min > 1 ? 0.5 : 1 / FINE;
  const input = element("input", { type: "range", min, max, step });
  const output = element("output", { htmlFor: `field-${field.name}` });
  const show = () => (output.textContent = input.value);
  input.addEventListener("input", show);
  root.append(row(label, output), input);
  return { input, get: () => Number(input.value), set: (value) => ((input.value = value), show()) };
}

function makeNumber(field, root, label) {
  const { minimum: min, maximum: max } = field;
  const input = element("input", { type: "number", min, max, step: 1, required: true, inputMode: "numeric" });
  root.append(label, input);
  return { input, get: () => input.valueAsNumber, set: (value) => (input.value = value) };
}

function makeSelect(field, root, label) {
  const input = element("select");
  input.append(...field.enum.filter((name) => name !== null).map((name) => new Option(name)));
  root.append(label, input);
  return { input, get: () => input.value, set: (value) => (input.value = value) };
}

function makeCheckbox(field, root, label) {
  const input = element("input", { type: "checkbox" });
  label.className = "check";
  label.prepend(input);
  root.append(label);
  return { input, get: () => input.checked, set: (value) => (input.checked = value) };
}

function row(...parts) {
  const made = element("div", { className: "head" });
  made.append(...parts);
  return made;
}

export const element = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
