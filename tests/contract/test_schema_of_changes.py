"""What changes something, or takes a body, keeps the committed document; one after another too."""

import pytest

from tests.contract.conftest import ALWAYS, operations
from tests.contract.fuzzing import run
from tests.contract.served import Served

pytestmark = pytest.mark.hypothesis


@pytest.mark.parametrize("operation_id", operations("post", "delete", "put", "patch"))
def test_an_operation_with_a_body_keeps_its_contract(here: Served, operation_id: str):
    here.challenge(is_challenged=operation_id == "withdraw")
    found = run(here.document, here.address, here.key, here.real(), operation_id=operation_id)
    assert not found.failures, str(found)
    assert found.statuses[200] + found.statuses[201], str(found)
    assert found.checks >= ALWAYS


@pytest.mark.sequences
def test_operations_in_sequence_keep_their_contracts(here: Served):
    found = run(here.document, here.address, here.key, here.real())
    assert not found.failures, str(found)
    assert found.statuses[200], str(found)
