"""One sequence as every backbone would read it: letters in; views, or why there are none, out."""

from __future__ import annotations

from api.errors import TooLarge
from api.page_schemas import SequenceView
from api.schemas import Problem
from embedstore.dogma import VIEWS, Unreadable
from embedstore.errors import BadInput
from embedstore.records import Record, check_sequence
from embedstore.store import key_of


def read_sequence(sequence: str, molecule: str | None, limit: int) -> Record:
    """A sequence checked letter by letter, as a build checks it.

    Parameters
    ----------
    molecule : None: told from the letters
    limit : letters

    Raises
    ------
    TooLarge, BadInput
    """
    if len(sequence) > limit:
        raise TooLarge(f"The sequence has {len(sequence)} letters.", f"Send at most {limit}.")
    try:
        return check_sequence("0", sequence, molecule, "The sequence")
    except BadInput as error:
        raise BadInput(error.problem, "Correct the sequence, or name another molecule.") from error


def all_views(record: Record) -> list[SequenceView]:
    """Every view of a record; one that cannot be made says why."""
    views = []
    for name in VIEWS:
        try:
            text = record.view(name).text
            views.append(SequenceView(view=name, text=text, key=key_of(text)))
        except Unreadable as error:
            problem = Problem(
                code=error.reason,
                problem=f"The {record.molecule} has no {name} view: {error.detail}.",
                fix=f"Backbones that read {name} leave such a sequence out.",
            )
            views.append(SequenceView(view=name, error=problem))
    return views
