"""One sequence as every backbone would read it: letters in; views, or why there are none, out."""

from __future__ import annotations

from api.coding import CodingRegion, CodingRules, give_coding
from api.errors import TooLarge
from api.page_schemas import SequenceView
from api.schemas import Problem
from embedstore.dogma import VIEWS, Unreadable
from embedstore.errors import BadInput
from embedstore.records import Record, check_sequence
from embedstore.store import key_of


def read_sequence(
    sequence: str,
    molecule: str | None,
    limit: int,
    rules: CodingRules,
    region: CodingRegion | None,
) -> Record:
    """A sequence checked letter by letter, as a build checks it.

    Parameters
    ----------
    molecule : None: told from the letters
    limit : letters
    rules, region : how it is translated

    Raises
    ------
    TooLarge, BadInput
    """
    if len(sequence) > limit:
        raise TooLarge(f"The sequence has {len(sequence)} letters.", f"Send at most {limit}.")
    try:
        record = check_sequence("0", sequence, molecule, "The sequence")
    except BadInput as error:
        raise BadInput(error.problem, "Correct the sequence, or name another molecule.") from error
    return give_coding(record, rules, region, "The sequence")


def all_views(record: Record) -> list[SequenceView]:
    """Every view of a record; one that cannot be made says why."""
    views = []
    for name in VIEWS:
        try:
            view = record.view(name)
            views.append(
                SequenceView(
                    view=name,
                    text=view.text,
                    key=key_of(view.text),
                    start=view.start,
                    step=view.step,
                )
            )
        except Unreadable as error:
            problem = Problem(
                code=error.reason,
                problem=f"The {record.molecule} has no {name} view: {error.detail}.",
                fix=f"Backbones that read {name} leave such a sequence out.",
            )
            views.append(SequenceView(view=name, start=None, step=None, error=problem))
    return views
