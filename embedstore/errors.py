"""Every error this project raises on purpose: a problem and the fix, in one tree."""

from __future__ import annotations


class StoreError(Exception):
    """Base of every error we raise on purpose."""

    code = "store-error"  # stable: clients match on it

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem, fix)  # both in args, so it survives pickling
        self.problem, self.fix = problem, fix

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}"


class BadInput(StoreError, ValueError):
    """A file, a row or an option that cannot be used as given."""

    code = "bad-input"


class InUse(BadInput):
    """Another process is at work on the same folder."""

    code = "in-use"


class NotAStore(StoreError):
    """The folder holds no store, or something that only looks like one."""

    code = "not-a-store"


class NewerFormat(StoreError):
    """Written by a later version in a format this one cannot read."""

    code = "newer-format"


class CollectionConflict(StoreError):
    """A collection of that name exists and holds other records."""

    code = "collection-conflict"


class MissingCollection(StoreError, KeyError):
    """No collection of that name."""

    code = "missing-collection"


class MissingRecipe(StoreError, KeyError):
    """Nothing was embedded with that backbone or recipe."""

    code = "missing-recipe"


class MissingRecord(StoreError, KeyError):
    """No record of that id."""

    code = "missing-record"


class MissingEmbedding(StoreError, KeyError):
    """Never written."""

    code = "missing-embedding"


class DamagedSegment(StoreError):
    """Written, but unreadable now."""

    code = "damaged-segment"


class Unreachable(StoreError):
    """A bucket or disk that does not answer, or not to us; nothing is known of what it holds."""

    code = "unreachable"


class WriteFailed(StoreError):
    """The disk refuses to keep something; what was published before is untouched."""

    code = "write-failed"


class StoreFull(WriteFailed):
    """No room is left for what is to be written."""

    code = "store-full"


class NotWritable(WriteFailed):
    """The place may only be read."""

    code = "not-writable"


class UnknownBackbone(StoreError, KeyError):
    """No backbone of that name."""

    code = "unknown-backbone"


class MissingWeights(StoreError):
    """The weights of a backbone cannot be had here."""

    code = "missing-weights"


class BadWeights(StoreError, ValueError):
    """Weights that are not what the backbone needs."""

    code = "bad-weights"


class TooLong(StoreError, ValueError):
    """A sequence is longer than the backbone reads."""

    code = "too-long"


class Diverged(StoreError):
    """Training ended in values that are not finite; nothing of it is kept."""

    code = "training-diverged"


class NotFinite(BadInput):
    """A prediction, or the values that a head predicts from, are not finite: there is none."""

    code = "not-finite"


class UnknownDataSet(StoreError, KeyError):
    """No data set of that name is registered."""

    code = "unknown-data-set"


class LicenceNotAccepted(StoreError):
    """A data set whose licence has to be agreed to first."""

    code = "licence-not-accepted"


class DataNotAtHand(StoreError):
    """A data set whose files are neither here nor to be downloaded."""

    code = "data-not-at-hand"


class DownloadFailed(StoreError):
    """A server refuses, or cannot be reached."""

    code = "download-failed"


class BadChecksum(StoreError):
    """A file that is not the registered one."""

    code = "bad-checksum"


class NoReader(StoreError):
    """The optional package that reads a format is not installed."""

    code = "no-reader"
