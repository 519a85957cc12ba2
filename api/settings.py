"""How one server runs: options and environment in, checked settings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from embedstore.backbones.specs import find_spec
from embedstore.errors import BadInput

API_KEYS = "EMBEDSTORE_API_KEYS"
LIMITS = {
    "max_response_bytes": "EMBEDSTORE_MAX_RESPONSE_BYTES",
    "max_sequences": "EMBEDSTORE_MAX_SEQUENCES",
    "max_letters": "EMBEDSTORE_MAX_LETTERS",
    "neighbors_exact_max": "EMBEDSTORE_NEIGHBORS_EXACT_MAX",
}
"""Settings that only the environment sets, and the variables that do."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One server."""

    store: str | Path
    """Folder of the store, or the URL of one in a bucket."""
    probes: Path | None = None
    """Folder whose subfolders are saved probes, or a run of `probe grid`; None: no probes."""
    host: str = "127.0.0.1"
    """Address to listen on; any but loopback needs an API key."""
    port: int = 8000
    """0 takes a free one."""
    weights: Mapping[str, Path] = field(default_factory=dict)
    """Short name of a backbone to the folder of its weights, to embed new sequences."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`, for new sequences."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Any one opens every route; without one only this machine is served."""
    max_response_bytes: int = 64 << 20
    """Largest embedding sent, in bytes of its matrix; in JSON a number counts 24."""
    max_sequences: int = 256
    """Sequences or ids in one request."""
    max_letters: int = 200_000
    """Letters of all sequences of one request."""
    neighbors_exact_max: int = 1_000_000
    """Embeddings of a recipe up to which every one is compared with a query; beyond: IVF."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise BadInput(f"--port {self.port} does not exist.", "Give 0 to 65535.")
        for name, variable in LIMITS.items():
            if getattr(self, name) < 1:
                raise BadInput(f"{variable} is {getattr(self, name)}.", "Give at least 1.")
        if any(not key.isascii() or not key.isprintable() or " " in key for key in self.api_keys):
            raise BadInput(
                f"{API_KEYS} holds a key that no header can carry.",
                "Use letters, digits and punctuation; commas separate keys.",
            )
        if not self.api_keys and not is_loopback(self.host):
            raise BadInput(
                f"--host {self.host} lets other machines in, and no API key is set.",
                f"Set {API_KEYS} to one or more keys, or serve 127.0.0.1 only.",
            )
        if self.probes is not None and not self.probes.is_dir():
            raise BadInput(
                f"--probes {str(self.probes)!r} is not a folder.",
                "Give the folder of a `probe grid` run, or one of saved probes.",
            )

    @property
    def max_request_bytes(self) -> int:
        """Largest request body: the letters, ids and JSON around them."""
        return 2 * self.max_letters + 1024 * self.max_sequences + 4096

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **options: Any) -> Settings:
        """Settings of the command line, with keys and limits from environment variables.

        Parameters
        ----------
        environment : `EMBEDSTORE_API_KEYS`, keys with commas between, and the variables in
            `LIMITS`; an empty value counts as none
        options : the other settings by name

        Raises
        ------
        BadInput
            A value cannot be used; names the option or variable.
        """
        keys = [key.strip() for key in environment.get(API_KEYS, "").split(",")]
        for name, variable in LIMITS.items():
            text = environment.get(variable, "")
            if not text:
                continue
            if not (text.isascii() and text.isdigit()):
                raise BadInput(f"{variable} is {text!r}.", "Give a whole number.")
            options[name] = int(text)
        return cls(api_keys=tuple(key for key in keys if key), **options)


def parse_weights(given: Sequence[str]) -> dict[str, Path]:
    """`BACKBONE=DIR` options as a table of short name to folder.

    Raises
    ------
    UnknownBackbone
        No backbone of that name.
    BadInput
        Not of that form, given twice, or the backbone has no weights.
    """
    table: dict[str, Path] = {}
    for text in given:
        name, sign, folder = text.partition("=")
        if not sign or not folder:
            raise BadInput(f"--weights {text!r} is not BACKBONE=DIR.", "E.g. esm2-8m=weights/esm2.")
        spec = find_spec(name)
        if not spec.needs_weights:
            raise BadInput(f"{spec.name} has no weights.", f"Leave --weights {text} out.")
        if spec.name in table:
            raise BadInput(f"--weights names {spec.name} twice.", "Give one folder a backbone.")
        table[spec.name] = Path(folder)
    return table


def is_loopback(host: str) -> bool:
    """True where only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
