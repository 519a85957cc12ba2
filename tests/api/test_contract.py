"""Whatever the OpenAPI document allows, and much that it does not, is answered as it says."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi.checks import positive_data_acceptance

from api.app import create_app
from api.settings import Settings

EXAMPLES = 8
"""Requests of each kind to each operation."""

EXCLUDED = [positive_data_acceptance, not_a_server_error]
"""A schema cannot tell which letters a sequence may have, nor which models there are; and a 503
with Retry-After is no failure: others are looked for here."""

HOST = {"Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def app(shared_store, shared_probes):
    return create_app(Settings(store=shared_store.folder, probes=shared_probes))


@pytest.fixture(scope="module")
def known(shared_store):
    """What there is, by the name of a parameter or field: random names are all absent."""
    recipe = shared_store.find_recipe("one-hot-mrna").name
    return {
        "recipe": recipe,
        "key": shared_store.find_key("gene-0", "mrna"),
        "id": "gene-0",
        "backbone": "one-hot-mrna",
        "model": "one-hot-mrna",
        "collection": "genes",
        "input": ["AUGGCUAAA", "AUGAUG"],
        "rows": "0:2",
        "ids": ["gene-0", "nobody"],
        "sequences": [{"sequence": "AUGAAAGCC"}, {"sequence": "!"}],
    }


def fill(case, known):
    """Put what exists in place of what was made up, where the case has it."""
    names = dict(known, name="halflife" if "probes" in case.path else "genes")
    if case.path.startswith("/v1/models"):
        names["id"] = known["recipe"]
    for given_ in (case.path_parameters, case.query, case.body):
        if isinstance(given_, dict):
            given_.update({name: names[name] for name in given_ if name in names})
    if isinstance(case.body, dict):  # either of them alone
        if "sequences" in case.body:
            case.body.pop("ids", None)
            case.body.pop("collection", None)
        elif "keys" in case.body:
            case.body["keys"] = [known["key"]]
            case.body.pop("ids", None)
            case.body.pop("collection", None)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_document_and_the_server_agree(app, known, mode):
    """Schemathesis makes the requests and checks status, media type, headers and body of the
    answers."""
    described = from_dict(app.openapi())
    described.app = app
    tried = 0
    statuses = set()
    for found in described.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
        def check(case, real):
            if real and mode is GenerationMode.POSITIVE:
                fill(case, known)
            response = case.call_and_validate(headers=HOST, excluded_checks=EXCLUDED)
            assert response.status_code < 500 or "retry-after" in response.headers
            statuses.add((case.operation.label, response.status_code))

        try:
            check()
            tried += 1
        except Unsatisfiable:
            pass  # nothing can be wrong with a request that has no parts
    if mode is GenerationMode.POSITIVE:
        assert len({label for label, status in statuses if status == 200}) >= 14
    else:
        assert tried >= 7
