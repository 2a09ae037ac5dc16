"""What only asks keeps the committed document, whatever it is asked with."""

import pytest

from tests.contract.conftest import ALWAYS, operations
from tests.contract.fuzzing import run
from tests.contract.served import Served

pytestmark = pytest.mark.hypothesis


@pytest.mark.parametrize("operation_id", operations("get"))
def test_an_operation_that_asks_keeps_its_contract(here: Served, operation_id: str):
    found = run(here.document, here.address, here.key, here.real(), operation_id=operation_id)
    assert not found.failures, str(found)
    assert found.statuses[200], str(found)
    assert found.checks >= ALWAYS
