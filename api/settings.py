"""How one server runs: options and environment in, checked settings out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from embedstore.backbones.specs import find_spec
from embedstore.errors import BadInput

API_KEYS = "EMBEDSTORE_API_KEYS"
LIMITS = (
    "max_body_bytes",
    "max_response_bytes",
    "max_sequences",
    "max_letters",
    "max_queued_tokens",
    "batch_tokens",
    "request_seconds",
    "neighbors_exact_max",
    "max_connections",
)
"""Settings that the environment sets, under these names in capitals with EMBEDSTORE_ before."""
COUNTS = (*LIMITS, "cache_bytes", "requests_per_minute", "write_back_seconds")
"""All whole numbers that the environment sets; those that are no limits may be 0."""
SWITCHES = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
LOG_FORMATS = ("text", "json")

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One server."""

    store: str | Path
    """Folder of the store, or the URL of one in a bucket."""
    probes: Path | None = None
    """A run of `probe grid`, a folder of runs, a sweep, or saved probes; None: no probes."""
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
    allow_no_keys: bool = False
    """Serve other machines without any key."""
    workers: int = 1
    """Processes that serve the same store and address."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may read answers, e.g. `https://lab.example`; `*` for all."""
    log_format: str = "text"
    """`text`, or `json` for one object a line."""
    write_back: bool = False
    """Keep newly made embeddings in the store."""
    max_body_bytes: int | None = None
    """Largest request body; None: as the letters and sequences allow."""
    max_response_bytes: int = 64 << 20
    """Largest embeddings sent, in bytes of their numbers; in JSON a number counts 24."""
    max_sequences: int = 256
    """Sequences, ids or keys in one request."""
    max_letters: int = 200_000
    """Letters of all sequences of one request."""
    max_queued_tokens: int = 400_000
    """Tokens that may wait for models; a request beyond is told to come later."""
    batch_tokens: int = 8_192
    """Tokens in one forward pass."""
    request_seconds: int = 60
    """How long a request's body, and then its embeddings, are waited for."""
    neighbors_exact_max: int = 1_000_000
    """Embeddings of a recipe up to which every one is compared with a query; beyond: IVF."""
    max_connections: int = 512
    """Open connections of one worker process; beyond, the one that has sent nothing for longest is
    closed."""
    requests_per_minute: int = 0
    """Requests of one key; 0: as many as it likes."""
    cache_bytes: int = 64 << 20
    """Answers kept in memory, so that the same look-up is not read again; 0: none."""
    write_back_seconds: int = 5
    """How long new embeddings are gathered before they are published as a segment."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise BadInput(f"--port {self.port} does not exist.", "Give 0 to 65535.")
        if self.workers < 1:
            raise BadInput(f"--workers is {self.workers}.", "Give at least 1.")
        for name in COUNTS:
            least, value = int(name in LIMITS), getattr(self, name)
            if value is not None and value < least:
                raise BadInput(f"{variable_of(name)} is {value}.", f"Give at least {least}.")
        if self.log_format not in LOG_FORMATS:
            raise BadInput(
                f"{variable_of('log_format')} is {self.log_format!r}.",
                f"Use one of: {', '.join(LOG_FORMATS)}.",
            )
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise BadInput(
                    f"{variable_of('cors_origins')} names {origin!r}, which is no origin.",
                    "Give scheme and host, e.g. https://lab.example, with commas between.",
                )
        if any(not key.isascii() or not key.isprintable() or " " in key for key in self.api_keys):
            raise BadInput(
                f"{API_KEYS} holds a key that no header can carry.",
                "Use letters, digits and punctuation; commas separate keys.",
            )
        if not (self.api_keys or self.allow_no_keys or is_loopback(self.host)):
            raise BadInput(
                f"--host {self.host} lets other machines in, and no API key is set.",
                f"Set {API_KEYS} to one or more keys, serve 127.0.0.1 only, or say "
                "--allow-no-keys.",
            )
        if self.probes is not None and not self.probes.is_dir():
            raise BadInput(
                f"--probes {str(self.probes)!r} is not a folder.",
                "Give a run of `probe grid`, a folder of runs, a sweep, or saved probes.",
            )

    @property
    def max_request_bytes(self) -> int:
        """Largest request body: the letters, ids and JSON around them, unless one is set."""
        if self.max_body_bytes is not None:
            return self.max_body_bytes
        return 2 * self.max_letters + 1024 * self.max_sequences + 4096

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **options: Any) -> Settings:
        """Settings of the command line, with keys and limits from environment variables.

        Parameters
        ----------
        environment : `EMBEDSTORE_API_KEYS` and `EMBEDSTORE_CORS_ORIGINS`, with commas between,
            `EMBEDSTORE_WRITE_BACK`, `EMBEDSTORE_LOG_FORMAT` and the variables of `COUNTS`; an
            empty value counts as none
        options : the other settings by name

        Raises
        ------
        BadInput
            A value cannot be used; names the option or variable.
        """
        keys = tuple(_listed(environment.get(API_KEYS, "")))
        for name in COUNTS:
            text = environment.get(variable_of(name), "")
            if not text:
                continue
            if not (text.isascii() and text.isdigit()):
                raise BadInput(f"{variable_of(name)} is {text!r}.", "Give a whole number.")
            options[name] = int(text)
        text = environment.get(variable_of("write_back"), "")
        if text:
            if text.lower() not in SWITCHES:
                raise BadInput(f"{variable_of('write_back')} is {text!r}.", "Give 1 or 0.")
            options["write_back"] = SWITCHES[text.lower()]
        if environment.get(variable_of("log_format"), ""):
            options["log_format"] = environment[variable_of("log_format")]
        origins = tuple(_listed(environment.get(variable_of("cors_origins"), "")))
        return cls(api_keys=keys, cors_origins=origins, **options)


def variable_of(name: str) -> str:
    """The environment variable that sets a setting."""
    return f"EMBEDSTORE_{name.upper()}"


def _listed(text: str) -> Iterator[str]:
    """Entries of a list with commas between, empty ones left out."""
    return (entry for each in text.split(",") if (entry := each.strip()))


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


@lru_cache(256)
def is_loopback(host: str) -> bool:
    """True where only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
