"""Reading a bundle: its files, its configurations, and the facts that the stages need."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from backdrop_export import ip_adapter
from backdrop_export.weight_files import tensor_shapes
from backdrop_server.errors import SetupError
from backdrop_server.plan import BundleFacts

DENOISER = "unet_controlnet"
GRAPH_FOLDERS = {
    "text_encoder": ("text_encoder", "text_encoder_2"),
    "image_encoder": ("image_encoder", "feature_extractor", "ip_adapter"),
    "vae_encoder": ("vae",),
    "vae_decoder": ("vae",),
    DENOISER: ("unet", "controlnet", "ip_adapter"),
}
"""The bundle's folders that each graph is made of; a change elsewhere leaves it up to date."""
EDGE_ENCODER = "controlnet_cond_embedding"
"""What diffusers calls the edge encoder in its ``ControlNetModel``."""
IP_ADAPTER = "ip_adapter/ip-adapter.safetensors"
PREPROCESSOR = "feature_extractor/preprocessor_config.json"
SCHEDULER = "scheduler/scheduler_config.json"
FACTS = "backdrop.json"

_REQUIRED = (
    "model_index.json",
    FACTS,
    *(f"{folder}/config.json" for folder in ("unet", "controlnet", "vae", "image_encoder")),
    *(f"{folder}/config.json" for folder in ("text_encoder", "text_encoder_2")),
    *(f"{folder}/vocab.json" for folder in ("tokenizer", "tokenizer_2")),
    *(f"{folder}/merges.txt" for folder in ("tokenizer", "tokenizer_2")),
    IP_ADAPTER,
    PREPROCESSOR,
    SCHEDULER,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A folder in diffusers' layout, with the IP-Adapter's file and ``backdrop.json``."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Check that every file is there; raises SetupError naming the first that is not."""
        bundle = cls(path.resolve())
        if not bundle.path.is_dir():
            raise SetupError(f"there is no bundle at {path}")
        for file in _REQUIRED:
            if not (bundle.path / file).is_file():
                raise SetupError(f"bundle {bundle.name}: the file {file} is missing in {path}")
        return bundle

    @property
    def name(self) -> str:
        """The folder's name, which names what is built from it too."""
        return self.path.name

    def config(self, file: str) -> dict[str, Any]:
        """The JSON object in ``file``; raises SetupError when it is not one."""
        try:
            content = json.loads((self.path / file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SetupError(f"bundle {self.name}: {file} is not readable JSON") from error
        if not isinstance(content, dict):
            raise SetupError(f"bundle {self.name}: {file} is not a JSON object")
        return content

    def value(self, file: str, *keys: str) -> Any:
        """The value under ``keys``, one inside the other; raises SetupError naming file and key."""
        content: Any = self.config(file)
        for key in keys:
            if not isinstance(content, dict) or key not in content:
                raise SetupError(f"bundle {self.name}: {file} lacks the key {'.'.join(keys)}")
            content = content[key]
        return content

    def files(self, folders: tuple[str, ...]) -> list[Path]:
        """Every file in ``folders``, sorted."""
        found = (file for folder in folders for file in (self.path / folder).rglob("*"))
        return sorted(file for file in found if file.is_file())

    def image_tokens(self) -> int:
        """Tokens that the IP-Adapter makes of a picture: 4 for the base variant, 16 for plus."""
        path = self.path / IP_ADAPTER
        return ip_adapter.tokens(tensor_shapes(path), path)

    def facts(self) -> BundleFacts:
        """What the stages must know; raises SetupError naming the file and key that is missing."""
        vae = "vae/config.json"
        return BundleFacts(
            name=self.name,
            native_pixels=int(self.value(FACTS, "native_pixels")),
            latent_channels=int(self.value(vae, "latent_channels")),
            vae_scale_factor=2 ** (len(self.value(vae, "block_out_channels")) - 1),
            vae_scaling_factor=float(self.value(vae, "scaling_factor")),
            clip_image_size=int(self.value(PREPROCESSOR, "crop_size", "height")),
            force_zeros_for_empty_prompt=bool(
                self.value("model_index.json", "force_zeros_for_empty_prompt")
            ),
            guidance_rescale=self._guidance_rescale(),
        )

    def _guidance_rescale(self) -> float:
        given = self.config(FACTS).get("guidance_rescale", 0.0)
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
            raise SetupError(
                f"bundle {self.name}: guidance_rescale in {FACTS} is {given!r}; allowed: 0 to 1"
            )
        return float(given)
