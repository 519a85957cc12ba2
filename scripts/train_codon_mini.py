"""Train `codon-mini`: public coding sequences in, weights, vocabulary and held-out scores out.

Reads three tables below the folder named by EMBEDSTORE_DATA; docs/codon-mini.md tells the rest.
Shape letters: N coding sequences, T tokens in all, S species, P scored positions; a codon is its
index in `CODONS`, its token that plus `FIRST_CODON`.

    EMBEDSTORE_DATA=data python scripts/train_codon_mini.py --out build/codon-mini
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from embedstore.backbones.codons import CODONS, FIRST_CODON, MASK, VOCABULARY, CodonTokenizer
from embedstore.dogma import GENETIC_CODE
from embedstore.errors import BadInput, MissingWeights, StoreError
from embedstore.store.collection import key_of

if TYPE_CHECKING:
    from transformers import EsmForMaskedLM

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CODE = np.array(["ACDEFGHIKLMNPQRSTVWY*".index(GENETIC_CODE[codon]) for codon in CODONS])
"""int64, shape (64,): amino acid of each codon, 20 for a stop."""
SENSE = CODE < 20
MASK_RATIO = 0.15
LONGEST = 1022
"""Codons of a CDS that are read when scoring, from its start."""

log = logging.getLogger("train_codon_mini")


# ---- data -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """One table of coding sequences."""

    file: str
    column: str
    species: str
    """A species, or the name of the column that says it."""
    starts: tuple[str, ...]
    """Start codons taken as such."""


SOURCES = (
    Source("yeast_expression/yeast_cds_fpkm_halflife.csv.gz", "seq", "yeast", ("AUG",)),
    Source(
        "ecoli_abundance/protein_abundance.csv.gz", "cds", "ecoli", ("AUG", "GUG", "UUG", "CUG")
    ),
    Source("icodon_stability/icodon_test.csv.gz", "coding", "specie", ("AUG",)),
)


@dataclass(frozen=True)
class Cds:
    """One coding sequence, start and stop codon included."""

    codons: Ints
    """int64, shape (codons,): index in `CODONS`."""
    species: str

    @property
    def text(self) -> str:
        """The view `cds`: RNA letters."""
        return "".join(CODONS[codon] for codon in self.codons.tolist())

    def digest(self, seed: int) -> bytes:
        """Eight bytes that depend on sequence and seed alone, not on the order of the tables."""
        return hashlib.blake2b(self.codons.tobytes(), digest_size=8, key=b"%d" % seed).digest()


def read_cds(data: Path) -> list[Cds]:
    """Every valid CDS of the three tables, identical ones once.

    Valid: A, C, G, T alone, a whole number of codons, a start codon first, a stop codon last and
    none before.

    Raises
    ------
    BadInput
        A table is not there.
    """
    tokenizer = CodonTokenizer()
    found: dict[str, Cds] = {}
    for source in SOURCES:
        file = data / source.file
        if not file.is_file():
            raise BadInput(f"There is no {source.file}.", "Set EMBEDSTORE_DATA to its folder.")
        with gzip.open(file, "rt", newline="") as lines:
            for row in csv.DictReader(lines):
                text = row[source.column].upper().replace("T", "U")
                if len(text) % 3 or not text.startswith(source.starts) or set(text) - set("ACGU"):
                    continue
                codons = tokenizer.encode(text) - FIRST_CODON
                if SENSE[codons[-1]] or not SENSE[codons[:-1]].all() or len(codons) < 3:
                    continue
                found.setdefault(text, Cds(codons, row.get(source.species, source.species)))
    return list(found.values())


def group_by_homology(genes: Sequence[Cds], length: int = 6, shared: int = 4) -> Ints:
    """Groups of genes whose proteins share peptides, so that no split parts close relatives.

    Two proteins are linked when they have at least `shared` different peptides of `length`
    residues in common; a group is whatever links connect (single linkage). A common stretch of
    nine residues gives four common 6-mers, hence a link. Peptides with fewer than four different
    residues say nothing about descent and do not count.

    Returns
    -------
    int64, shape (N,)
        Group of each gene, 0-based.
    """
    from scipy.sparse import coo_matrix, csr_matrix
    from scipy.sparse.csgraph import connected_components

    owners, peptides = [], []
    for number, gene in enumerate(genes):
        protein = CODE[gene.codons[:-1]]
        if len(protein) < length:
            continue
        views = np.lib.stride_tricks.sliding_window_view(protein, length)
        different = 1 + (np.diff(np.sort(views, axis=1), axis=1) > 0).sum(axis=1)
        distinct = np.unique(views[different >= 4] @ 20 ** np.arange(length))
        owners.append(np.full(len(distinct), number))
        peptides.append(distinct)
    owner = np.concatenate(owners)
    _, column, genes_with = np.unique(
        np.concatenate(peptides), return_inverse=True, return_counts=True
    )
    useful = genes_with[column] > 1
    shape = (len(genes), len(genes_with))
    has = csr_matrix((np.ones(useful.sum(), np.int32), (owner[useful], column[useful])), shape)
    common = (has @ has.T).tocoo()
    linked = common.data >= shared
    links = coo_matrix(
        (common.data[linked], (common.row[linked], common.col[linked])), common.shape
    )
    labels: Ints = connected_components(links, directed=False)[1].astype(np.int64)
    return labels


def split_groups(
    genes: Sequence[Cds], group: Ints, seed: int, largest_held_out: float = 0.005
) -> dict[str, list[int]]:
    """Indices of genes for `train` (about 85 %), `validation` (5 %) and `test` (10 %).

    A group goes whole to one part, drawn by a hash of the smallest digest of its members. A group
    with more than `largest_held_out` of all genes is trained on: drawing it would make the parts a
    gamble.
    """
    size = np.bincount(group)
    first: dict[int, bytes] = {}
    for gene, number in zip(genes, group.tolist(), strict=True):
        digest = gene.digest(seed)
        first[number] = min(digest, first.get(number, digest))
    parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for index, number in enumerate(group.tolist()):
        # hashed again: the smallest of many digests is small, and would draw large groups to test
        draw = int.from_bytes(hashlib.blake2b(first[number], digest_size=8).digest()) / 2**64
        small = size[number] <= max(1, largest_held_out * len(genes))
        part = "test" if draw < 0.10 else "validation" if draw < 0.15 else "train"
        parts[part if small else "train"].append(index)
    return parts


# ---- training -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the weights, beside data and library versions."""

    steps: int
    seed: int
    batch_tokens: int
    learning_rate: float
    """Peak, after `warmup` steps; falls linearly to zero."""
    warmup: int = 100
    weight_decay: float = 0.05
    windows: tuple[tuple[float, int], ...] = ((0.7, 128), (1.0, 512))
    """(share of the steps, codons of a window): short windows are cheaper, long ones come last."""
    width: int = 128
    layers: int = 5
    heads: int = 4
    feed_forward: int = 512

    def window(self, step: int) -> int:
        """Most codons of a training window in this step."""
        return next(codons for share, codons in self.windows if step < share * self.steps)

    def rate(self, step: int) -> float:
        """Learning rate of this step."""
        rise = (step + 1) / max(1, min(self.warmup, self.steps // 4))
        return self.learning_rate * min(rise, 1 - step / self.steps)


def make_model(plan: Plan) -> EsmForMaskedLM:
    """An untrained model; its output layer is tied to the codon embeddings."""
    import torch
    from transformers import EsmConfig, EsmForMaskedLM

    torch.manual_seed(plan.seed)
    config = EsmConfig(
        vocab_size=len(VOCABULARY),
        mask_token_id=MASK,
        bos_token_id=VOCABULARY.index("<cls>"),
        pad_token_id=VOCABULARY.index("<pad>"),
        eos_token_id=VOCABULARY.index("<eos>"),
        hidden_size=plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        intermediate_size=plan.feed_forward,
        max_position_embeddings=LONGEST + 4,
        position_embedding_type="rotary",
        token_dropout=False,
        emb_layer_norm_before=False,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return EsmForMaskedLM(config)


def draw_windows(
    genes: Sequence[Cds], shares: Floats, codons: int, tokens: int, rng: np.random.Generator
) -> list[Ints]:
    """Windows of at most `codons`, longest first, until they hold `tokens` with special tokens.

    A gene is drawn by its share of all codons; the window lies around a random codon of it, so
    both ends are read as often as the middle.
    """
    drawn: list[Ints] = []
    while sum(len(window) + 2 for window in drawn) < tokens:
        gene = genes[int(np.searchsorted(shares, rng.random(), side="right"))].codons
        start = int(rng.integers(len(gene))) - codons // 2
        start = max(0, min(start, len(gene) - codons))
        drawn.append(gene[start : start + codons])
    return sorted(drawn, key=len, reverse=True)


def corrupt(ids: Ints, maskable: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Masked codons as in BERT: 15 % chosen; of these 80 % masked, 10 % random, 10 % left.

    Parameters
    ----------
    ids : int64, shape (T,)
    maskable : bool, shape (T,)
        False for special tokens.

    Returns
    -------
    int64, shape (T,), and int64, shape (chosen,)
        What the model reads, and the positions it must restore.
    """
    chosen = np.flatnonzero(maskable & (rng.random(len(ids)) < MASK_RATIO))
    fate = rng.random(len(chosen))
    read = ids.copy()
    read[chosen[fate < 0.8]] = MASK
    random = chosen[fate >= 0.9]
    read[random] = rng.integers(len(CODONS), size=len(random)) + FIRST_CODON
    return read, chosen


def pack(windows: Sequence[Ints]) -> tuple[Ints, list[int]]:
    """Token ids of windows between <cls> and <eos>, end to end: int64 (T,), and tokens of each."""
    own = CodonTokenizer()
    parts = [np.concatenate([own.prefix, codons + FIRST_CODON, own.suffix]) for codons in windows]
    return np.concatenate(parts), [len(part) for part in parts]


def train(
    genes: Sequence[Cds], plan: Plan, checkpoint: Path, *, minutes: float, resume: bool
) -> tuple[EsmForMaskedLM, int, float]:
    """Train until the plan's last step or until the time is over.

    Every step draws its windows and masks from (seed, step) alone, so a run that was stopped and
    resumed takes the same steps as one that was not.

    Returns
    -------
    model, steps taken, seconds trained (all runs together)
    """
    import torch
    from torch.nn.functional import cross_entropy

    from embedstore.backbones.esm import PackedEsm
    from embedstore.backbones.packed import Packing

    model = make_model(plan).train()
    encoder = PackedEsm(model.esm)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": plan.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=plan.learning_rate,
        betas=(0.9, 0.98),
    )
    step, before = 0, 0.0
    if resume:
        if not checkpoint.is_file():
            raise MissingWeights(f"There is no {checkpoint.name}.", "Leave --resume out.")
        state = torch.load(checkpoint, weights_only=True)
        if state["plan"] != _plain(plan):
            raise BadInput("The checkpoint is of another plan.", "Resume with the same options.")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, before = state["step"], state["seconds"]

    shares = np.cumsum([len(gene.codons) for gene in genes], dtype=np.float64)
    shares /= shares[-1]
    began = saved = time.monotonic()
    losses: list[float] = []
    while step < plan.steps and time.monotonic() - began < 60 * minutes:
        rng = np.random.default_rng([plan.seed, step])
        windows = draw_windows(genes, shares, plan.window(step), plan.batch_tokens, rng)
        ids, lengths = pack(windows)
        read, chosen = corrupt(ids, ids >= FIRST_CODON, rng)
        states = encoder(torch.from_numpy(read), Packing.of(lengths))
        logits = model.lm_head(states[torch.from_numpy(chosen)])
        loss = cross_entropy(logits, torch.from_numpy(ids[chosen]))
        for part in optimizer.param_groups:
            part["lr"] = plan.rate(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        now = time.monotonic()
        if step % 50 == 0:
            recent = float(np.mean(losses[-50:]))
            log.info("step %d loss %.4f seconds %.0f", step, recent, before + now - began)
        if now - saved > 120:
            _save_checkpoint(checkpoint, model, optimizer, plan, step, before + now - began)
            saved = now
    seconds = before + time.monotonic() - began
    _save_checkpoint(checkpoint, model, optimizer, plan, step, seconds)
    return model, step, seconds


def _save_checkpoint(
    checkpoint: Path, model: Any, optimizer: Any, plan: Plan, step: int, seconds: float
) -> None:
    import torch

    draft = checkpoint.with_suffix(".draft")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "plan": _plain(plan), "step": step, "seconds": seconds}, draft)
    draft.replace(checkpoint)


def _plain(plan: Plan) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(plan)))  # tuples become lists
    return plain


# ---- evaluation -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Positions:
    """Held-out codons to restore, in the order of their genes; never a gene's first or last."""

    gene: Ints
    """int64, shape (P,): index in the genes that were given."""
    at: Ints
    """int64, shape (P,): 0-based codon in its gene."""
    left: Ints
    codon: Ints
    right: Ints
    """int64, shape (P,): the codon itself and its two neighbours, masked ones too."""
    species: Ints
    """int64, shape (P,): index in the species that were given."""
    visible: Floats
    """float64, shape (genes, 64): inner codons of each gene that are not masked, counted."""


def masked_positions(genes: Sequence[Cds], species: Sequence[str], seed: int) -> Positions:
    """15 % of the inner codons of each gene, at least one, drawn from sequence and seed alone."""
    found: list[tuple[int, int, int, int, int, int]] = []
    visible = np.zeros((len(genes), len(CODONS)))
    for number, gene in enumerate(genes):
        codons = gene.codons[:LONGEST]
        inner = np.arange(1, len(codons) - 1)
        rng = np.random.default_rng(list(gene.digest(seed)))
        at = np.sort(rng.choice(inner, max(1, round(MASK_RATIO * len(inner))), replace=False))
        seen = np.delete(codons, [0, *at, len(codons) - 1])
        visible[number] = np.bincount(seen, minlength=len(CODONS))
        which = species.index(gene.species)
        found += [(number, i, codons[i - 1], codons[i], codons[i + 1], which) for i in at.tolist()]
    gene_, at_, left, codon, right, which_ = np.array(found, np.int64).T
    return Positions(gene_, at_, left, codon, right, which_, visible)


BASELINES = (
    "unigram",
    "bigram",
    "both_neighbours",
    "gene_unigram",
    "gene_both_neighbours",
    "species_unigram",
    "species_both_neighbours",
    "species_gene_both_neighbours",
)
"""Methods of `CodonCounts`: log-probabilities of the 64 codons, those told the species last."""

BACKED_OFF = tuple(name for name in BASELINES if name not in ("unigram", "species_unigram"))
"""Those that back off, each only to ones before it."""


class CodonCounts:
    """Counts of inner codons and their neighbours in training genes, by species.

    The baselines below are read off these counts. Each backs off to the one before it with a
    weight (in counts) that `tune` chooses on validation genes; none gives mass to stop codons.
    """

    def __init__(self, genes: Sequence[Cds], species: Sequence[str]) -> None:
        n = len(CODONS)
        self.triples = np.zeros((len(species), n, n, n))  # species, left, codon, right
        for number, name in enumerate(species):
            parts = [gene.codons for gene in genes if gene.species == name]
            index = [(c[:-2] * n + c[1:-1]) * n + c[2:] for c in parts]
            if index:
                counts = np.bincount(np.concatenate(index), minlength=n**3)
                self.triples[number] = counts.reshape(n, n, n)
        self.all = self.triples.sum(0)  # left, codon, right
        self.codon = _normal((self.all.sum((0, 2)) + 0.5) * SENSE)
        self.codon_of_species = _normal((self.triples.sum((1, 3)) + 0.5) * SENSE)
        self.weights: dict[str, float] = {}

    def tune(self, positions: Positions) -> None:
        """Choose each back-off weight, in the order of use, by the loss at these positions."""
        for name in BACKED_OFF:
            losses = {}
            for weight in (2.0**power for power in range(18)):
                self.weights[name] = weight
                losses[weight] = -float(_at(self.predict(name, positions), positions).mean())
            self.weights[name] = min(losses, key=losses.__getitem__)

    def predict(self, model: str, positions: Positions) -> Floats:
        """Log-probabilities of the 64 codons at every position: float64, shape (P, 64)."""
        method: Callable[[Positions], Floats] = getattr(self, model)
        with np.errstate(divide="ignore"):  # log 0 of the stop codons
            return np.log(method(positions))

    def unigram(self, positions: Positions) -> Floats:
        """Frequency of the codon."""
        return np.tile(self.codon, (len(positions.codon), 1))

    def bigram(self, positions: Positions) -> Floats:
        """Frequency after the left neighbour."""
        return self._beside(after=True)[positions.left]

    def both_neighbours(self, positions: Positions) -> Floats:
        """Frequency between these two neighbours, backed off to the product of both bigrams."""
        left, right = positions.left, positions.right
        lift = self._beside(after=True)[left] / self.codon.clip(1e-12)
        product = _normal(lift * self._beside(after=False)[right])
        return self._mix("both_neighbours", self.all[left, :, right], product)

    def species_unigram(self, positions: Positions) -> Floats:
        """Frequency in the species, which is told."""
        return self.codon_of_species[positions.species]

    def species_both_neighbours(self, positions: Positions) -> Floats:
        """Frequency between these two neighbours in the species, which is told."""
        seen = self.triples[positions.species, positions.left, :, positions.right]
        lift = self.species_unigram(positions) / self.codon.clip(1e-12)
        return self._mix(
            "species_both_neighbours", seen, _normal(self.both_neighbours(positions) * lift)
        )

    def gene_unigram(self, positions: Positions) -> Floats:
        """Frequency among the gene's own unmasked codons, backed off to all genes."""
        own = positions.visible[positions.gene] * SENSE
        return self._mix("gene_unigram", own, self.unigram(positions))

    def gene_both_neighbours(self, positions: Positions) -> Floats:
        """Neighbours, and the gene's own unmasked codons."""
        own = positions.visible[positions.gene] * SENSE
        base = self.unigram(positions)
        lift = self._mix("gene_both_neighbours", own, base) / base.clip(1e-12)
        return _normal(self.both_neighbours(positions) * lift)

    def species_gene_both_neighbours(self, positions: Positions) -> Floats:
        """All of it: species told, neighbours, and the gene's own unmasked codons."""
        own = positions.visible[positions.gene] * SENSE
        base = self.species_unigram(positions)
        lift = self._mix("species_gene_both_neighbours", own, base) / base.clip(1e-12)
        return _normal(self.species_both_neighbours(positions) * lift)

    def _beside(self, *, after: bool) -> Floats:
        """Of a codon (second axis) after or before another: float64, shape (64, 64)."""
        pairs = self.all.sum(2) if after else self.all.sum(0).T
        return self._mix("bigram", pairs, self.codon)

    def _mix(self, name: str, counts: Floats, base: Floats) -> Floats:
        weight = self.weights[name]
        mixed: Floats = (counts + weight * base) / (counts.sum(-1, keepdims=True) + weight)
        return mixed


def _normal(weights: Floats) -> Floats:
    normal: Floats = weights / weights.sum(-1, keepdims=True)
    return normal


def _at(logs: Floats, positions: Positions) -> Floats:
    picked: Floats = np.take_along_axis(logs, positions.codon[:, None], axis=1)[:, 0]
    return picked


def model_predictions(model: EsmForMaskedLM, genes: Sequence[Cds], positions: Positions) -> Floats:
    """Log-probabilities the model gives the 64 codons at every position: float64, shape (P, 64).

    Every scored codon is read as <mask>. The mass given to special tokens is lost, not shared out.
    """
    import torch

    from embedstore.backbones.esm import PackedEsm
    from embedstore.backbones.packed import Packing

    model = model.eval()
    encoder = PackedEsm(model.esm)
    bounds = np.searchsorted(positions.gene, np.arange(len(genes) + 1))
    logs = np.empty((len(positions.gene), len(CODONS)))
    for batch in _batches(genes, 8192):
        ids, lengths = pack([genes[number].codons[:LONGEST] for number in batch])
        starts = np.cumsum(lengths) - lengths
        rows = [np.arange(bounds[number], bounds[number + 1]) for number in batch]
        row = np.concatenate(rows)
        places = positions.at[row] + np.repeat(starts + 1, [len(r) for r in rows])
        ids[places] = MASK
        with torch.inference_mode():
            states = encoder(torch.from_numpy(ids), Packing.of(lengths))
            scores = model.lm_head(states[torch.from_numpy(places)]).double().log_softmax(-1)
        logs[row] = scores[:, FIRST_CODON : FIRST_CODON + len(CODONS)].numpy()
    return logs


def _batches(genes: Sequence[Cds], tokens: int) -> Iterator[list[int]]:
    """Indices of genes in batches of about `tokens`, longest first."""
    batch: list[int] = []
    held = 0
    for number in sorted(range(len(genes)), key=lambda i: -len(genes[i].codons)):
        batch.append(number)
        held += min(LONGEST, len(genes[number].codons)) + 2
        if held >= tokens:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def score(logs: Floats, positions: Positions, species: Sequence[str]) -> dict[str, Any]:
    """Loss (nats a codon) and accuracy, over all positions and for each species.

    `amino_acid_loss` and `synonymous_loss` are the two parts of the loss: which amino acid, and
    which of its codons once the amino acid is given.
    """
    right = _at(logs, positions)
    same = CODE[None, :] == CODE[positions.codon][:, None]  # (P, 64)
    amino_acid = np.logaddexp.reduce(np.where(same, logs, -np.inf), axis=1)
    hit = logs.argmax(1) == positions.codon
    by_species = {}
    for number, name in enumerate(species):
        here = positions.species == number
        if here.any():
            by_species[name] = _numbers(-right[here], hit[here])
    return {
        **_numbers(-right, hit),
        "amino_acid_loss": round(float(-amino_acid.mean()), 4),
        "synonymous_loss": round(float((amino_acid - right).mean()), 4),
        "species": by_species,
    }


def _numbers(loss: Floats, hit: NDArray[np.bool_]) -> dict[str, float]:
    return {"loss": round(float(loss.mean()), 4), "accuracy": round(float(hit.mean()), 4)}


def paired_interval(
    better: Floats, worse: Floats, positions: Positions, seed: int, draws: int = 2000
) -> list[float]:
    """95 % bootstrap interval of the loss saved (nats a codon), drawing whole genes: low, high."""
    saved = _at(better, positions) - _at(worse, positions)
    genes = np.unique(positions.gene, return_inverse=True)[1]
    total, count = np.bincount(genes, saved), np.bincount(genes)
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(total), size=(draws, len(total)))
    means = total[picks].sum(1) / count[picks].sum(1)
    return [round(float(x), 4) for x in np.quantile(means, [0.025, 0.975])]


# ---- files ----------------------------------------------------------------------------------


CONFIG = (
    "model_type",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "mask_token_id",
    "pad_token_id",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "position_embedding_type",
    "rope_theta",
    "token_dropout",
    "emb_layer_norm_before",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "tie_word_embeddings",
)
"""What config.json says of the model; the rest is the library's defaults."""


def save_model(model: EsmForMaskedLM, out: Path) -> Path:
    """Write config.json, vocab.txt and model.safetensors (float16) in the Hugging Face layout."""
    import torch
    from safetensors.torch import save

    tensors = {}
    for name, tensor in model.state_dict().items():
        if "contact_head" in name or name == "lm_head.decoder.weight":
            continue  # never trained; tied to the embeddings
        # angles of position 1,000 need more than float16's eleven bits
        kind = torch.float32 if name.endswith("inv_freq") else torch.float16
        tensors[name] = tensor.to(kind).contiguous()
    own = model.config.to_dict()
    config = {"architectures": ["EsmForMaskedLM"], "dtype": "float16"}
    config |= {name: own[name] for name in CONFIG}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    weights = out / "model.safetensors"
    weights.write_bytes(save(tensors, metadata={"format": "pt"}))
    return weights


def load_model(folder: Path) -> EsmForMaskedLM:
    """The saved model in float32, as `save_model` wrote it."""
    from safetensors.torch import load_file
    from transformers import EsmConfig, EsmForMaskedLM

    config = json.loads((folder / "config.json").read_text())
    model = EsmForMaskedLM(EsmConfig(**(config | {"dtype": "float32"})))
    given = {name: t.float() for name, t in load_file(folder / "model.safetensors").items()}
    missing, unexpected = model.load_state_dict(given, strict=False)
    left_out = [n for n in missing if "contact_head" not in n and n != "lm_head.decoder.weight"]
    if left_out or unexpected:
        raise BadInput(
            f"{folder.name} lacks or adds tensors: {left_out + unexpected}.", "Train it again."
        )
    model.tie_weights()
    return model


def evaluate(
    model: EsmForMaskedLM,
    genes: Sequence[Cds],
    parts: dict[str, list[int]],
    seed: int,
    part: str = "test",
) -> dict[str, Any]:
    """Scores of the model and of every baseline at masked codons of one part."""
    species = sorted({gene.species for gene in genes})
    of = {name: [genes[i] for i in indices] for name, indices in parts.items()}
    counts = CodonCounts(of["train"], species)
    counts.tune(masked_positions(of["validation"], species, seed))
    positions = masked_positions(of[part], species, seed)
    own = model_predictions(model, of[part], positions)
    scores = {"codon-mini": score(own, positions, species)}
    saved = {}
    for name in BASELINES:
        logs = counts.predict(name, positions)
        scores[name] = score(logs, positions, species)
        saved[name] = paired_interval(own, logs, positions, seed)
    return {
        "part": part,
        "positions": len(positions.codon),
        "scores": scores,
        "loss_saved_95": saved,
        "back_off_weights": counts.weights,
    }


def describe(
    data: Path, genes: Sequence[Cds], group: Ints, parts: dict[str, list[int]]
) -> dict[str, Any]:
    """Digests of the tables, how many genes and codons each part has, and the groups' sizes."""
    size = np.bincount(group)
    answer: dict[str, Any] = {
        "sha256": {
            s.file: hashlib.sha256((data / s.file).read_bytes()).hexdigest() for s in SOURCES
        },
        "genes": len(genes),
        "groups": len(size),
        "largest_groups": sorted(size.tolist(), reverse=True)[:5],
    }
    for part, indices in parts.items():
        names = [genes[i].species for i in indices]
        answer[part] = {
            "genes": len(indices),
            "codons": sum(len(genes[i].codons) for i in indices),
            "species": {name: names.count(name) for name in sorted(set(names))},
        }
    return answer


def count_parameters(model: EsmForMaskedLM) -> dict[str, int]:
    """Trained numbers in the encoder, and in the head that is needed for masked codons alone."""
    own = [(name, p.numel()) for name, p in model.named_parameters() if "contact_head" not in name]
    encoder = sum(count for name, count in own if name.startswith("esm."))
    return {"encoder": encoder, "head": sum(count for _, count in own) - encoder}


def versions() -> dict[str, str]:
    """Versions of the libraries that take part in the numbers."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "numpy", "scipy")}


# ---- command --------------------------------------------------------------------------------

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("build/codon-mini"),
    steps: Annotated[int, typer.Option(help="Length of the schedule.")] = 2600,
    minutes: Annotated[float, typer.Option(help="Stop training after this long.")] = 60.0,
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint in OUT.")] = False,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of split, weights, windows and masks.")] = 1,
    batch_tokens: Annotated[int, typer.Option(help="Tokens of one step.")] = 4096,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    part: Annotated[str, typer.Option(help="Part to score: test or validation.")] = "test",
) -> None:
    """Train codon-mini on the tables below EMBEDSTORE_DATA and score it on held-out genes.

    Example: EMBEDSTORE_DATA=data python scripts/train_codon_mini.py --out build/codon-mini
    """
    import torch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    plan = Plan(steps=steps, seed=seed, batch_tokens=batch_tokens, learning_rate=learning_rate)
    out.mkdir(parents=True, exist_ok=True)
    try:
        if "EMBEDSTORE_DATA" not in os.environ:
            raise BadInput("EMBEDSTORE_DATA is not set.", "Set it to the folder of the tables.")
        data = Path(os.environ["EMBEDSTORE_DATA"])
        genes = read_cds(data)
        group = group_by_homology(genes)
        parts = split_groups(genes, group, seed)
        checkpoint = out / "checkpoint.pt"
        of_train = [genes[i] for i in parts["train"]]
        model, step, seconds = train(of_train, plan, checkpoint, minutes=minutes, resume=resume)
        if step < steps:
            typer.echo(f"Stopped after step {step} of {steps}; --resume goes on.", err=True)
            raise typer.Exit(3)
        weights = save_model(model, out)
        record = {
            "name": "codon-mini",
            "parameters": count_parameters(load_model(out)),
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "data": describe(data, genes, group, parts),
            "plan": _plain(plan),
            "seconds": round(seconds),
            "threads": threads,
            "versions": versions(),
            **evaluate(load_model(out), genes, parts, seed, part),
        }
    except StoreError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    keys = sorted(key_of(genes[i].text) for i in parts["test"])
    (out / "held_out.txt").write_text("\n".join(keys) + "\n")
    (out / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n")
    typer.echo(json.dumps(record["scores"]))


if __name__ == "__main__":
    app()
