"""SMS: one contract that every provider's driver keeps, and what each does beyond it."""

import pytest

pytest.register_assert_rewrite("tests.sms.contract")
