"""The interface as it is described: schemathesis sends what the description allows and what it does not."""

import pytest
import schemathesis
from hypothesis import settings as hypothesis_settings

from densityclip.deliver.limits import Limits
from densityclip.deliver.service import ServiceSettings, make_app
from densityclip.deliver.uploads import Uploads


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    store = Uploads(tmp_path_factory.mktemp("openapi") / "store", limits=Limits(reserve_bytes=0))
    yield schemathesis.openapi.from_asgi("/api/openapi.json", make_app(store, ServiceSettings(waiting=5)))
    store.close()


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@hypothesis_settings(max_examples=15)
def test_every_answer_is_one_that_the_description_names(case):
    case.call_and_validate()
