"""Credits are neither lost nor made: entry by entry, at once from many sides, and after a kill."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from backdrop_server.errors import InvalidInputError
from backdrop_server.gateway import keys, ledger
from backdrop_server.gateway.database import Database
from backdrop_server.gateway.errors import InsufficientCreditsError
from backdrop_server.gateway.money import MAX_CREDITS
from backdrop_server.gateway.tables import jobs
from backdrop_server.gateway.tables import ledger as ledger_table
from tests.gateway import processes
from tests.gateway.test_database import go, job


def grant(database: Database, key_id: int, amount: str) -> None:
    with database.writing() as connection:
        ledger.grant(connection, key_id, Decimal(amount), "for a test")


def check_sums(connection: Connection, key_id: int) -> Decimal:
    """The key's balance, after recomputing it from its entries."""
    total = Decimal(0)
    for sequence, entry in enumerate(ledger.entries(connection, key_id), 1):
        total += entry.amount
        assert (entry.sequence, entry.balance) == (sequence, total)
        assert entry.balance >= 0
    assert ledger.balance(connection, key_id) == total
    return total


def test_a_jobs_way_through_the_ledger(database: Database, key_id: int) -> None:
    before = time.time()
    grant(database, key_id, "1")
    with database.writing() as connection:
        assert ledger.reserve(connection, key_id, "job", Decimal("0.3")) == Decimal("0.7")
        (reservation,) = ledger.open_reservations(connection)
        assert (reservation.job_id, reservation.key_id) == ("job", key_id)
        assert reservation.amount == Decimal("0.3")
        assert before <= reservation.created_at <= time.time()
        assert ledger.billed(connection, "job") == 0
    with database.writing() as connection:
        assert ledger.settle(connection, "job", Decimal("0.013500001")) == Decimal("0.013500001")
    with database.reading() as connection:
        assert [
            (entry.kind, entry.job_id, entry.amount, entry.note)
            for entry in ledger.entries(connection, key_id)
        ] == [
            ("grant", None, Decimal(1), "for a test"),
            ("reserve", "job", Decimal("-0.3"), ""),
            ("release", "job", Decimal("0.3"), ""),
            ("settle", "job", Decimal("-0.013500001"), ""),
        ]
        assert check_sums(connection, key_id) == Decimal("0.986499999")
        assert ledger.open_reservations(connection) == []


def test_what_has_ended_stays_as_it_is(database: Database, key_id: int) -> None:
    grant(database, key_id, "1")
    with database.writing() as connection:
        for name in ("settled", "released"):
            ledger.reserve(connection, key_id, name, Decimal("0.5"))
        ledger.settle(connection, "settled", Decimal("0.2"))
        ledger.release(connection, "released")
        entries = ledger.entries(connection, key_id)
        assert ledger.settle(connection, "settled", Decimal("0.3")) == Decimal("0.2")
        assert ledger.settle(connection, "released", Decimal("0.3")) == 0
        ledger.release(connection, "settled")
        ledger.release(connection, "released")
        assert ledger.entries(connection, key_id) == entries
        assert check_sums(connection, key_id) == Decimal("0.8")


def test_a_bill_is_never_above_its_reservation(database: Database, key_id: int) -> None:
    grant(database, key_id, "1")
    with database.writing() as connection:
        ledger.reserve(connection, key_id, "job", Decimal("0.1"))
        assert ledger.settle(connection, "job", Decimal(50)) == Decimal("0.1")
        assert check_sums(connection, key_id) == Decimal("0.9")


def test_jobs_that_cost_nothing(database: Database, key_id: int) -> None:
    with database.writing() as connection:
        ledger.reserve(connection, key_id, "job", Decimal(0))
        assert ledger.settle(connection, "job", Decimal(0)) == 0
        assert check_sums(connection, key_id) == 0


def test_too_few_credits(database: Database, key_id: int) -> None:
    grant(database, key_id, "0.5")
    with database.writing() as connection:
        with pytest.raises(InsufficientCreditsError) as raised:
            ledger.reserve(connection, key_id, "job", Decimal("0.500000001"))
        assert (raised.value.needed, raised.value.available) == (
            Decimal("0.500000001"),
            Decimal("0.5"),
        )
        assert str(raised.value) == "not enough credits: 0.500000001 are needed, 0.5 are there"
        with pytest.raises(InsufficientCreditsError):
            ledger.grant(connection, key_id, Decimal("-0.6"), "too much")
        assert len(ledger.entries(connection, key_id)) == 1
        assert ledger.grant(connection, key_id, Decimal("-0.5"), "all of it") == 0
        assert check_sums(connection, key_id) == 0


@pytest.mark.parametrize("amount", [Decimal(0), MAX_CREDITS])
def test_grants_that_can_not_be(database: Database, key_id: int, amount: Decimal) -> None:
    grant(database, key_id, "0.000000001")
    with pytest.raises(InvalidInputError, match=r"^amount: "), database.writing() as connection:
        ledger.grant(connection, key_id, amount, "")


@pytest.mark.parametrize("amount", [0.1, Decimal("1e-10"), Decimal(-1)])
def test_amounts_that_are_a_fault_of_ours(database: Database, key_id: int, amount: Decimal) -> None:
    grant(database, key_id, "1")
    with database.writing() as connection:
        ledger.reserve(connection, key_id, "open", Decimal("0.5"))
        with pytest.raises((TypeError, ValueError)):
            ledger.reserve(connection, key_id, "job", amount)
        with pytest.raises((TypeError, ValueError)):
            ledger.settle(connection, "open", amount)
        assert len(ledger.entries(connection, key_id)) == 2


def test_keys_and_jobs_that_are_not_there(database: Database) -> None:
    with database.writing() as connection:
        with pytest.raises(LookupError, match="there is no key 7"):
            ledger.reserve(connection, 7, "job", Decimal(0))
        for end in (ledger.release, lambda held, name: ledger.settle(held, name, Decimal(0))):
            with pytest.raises(LookupError, match="job nothing has no reservation"):
                end(connection, "nothing")
        assert ledger.balance(connection, 7) == 0


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["grant", "take", "reserve", "settle", "release"]),
        st.integers(0, 3),  # which job
        st.decimals(0, 2, places=9),
    ),
    max_size=25,
)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(operations=OPERATIONS)
def test_any_order_of_operations_keeps_the_sums(
    database: Database, operations: list[tuple[str, int, Decimal]]
) -> None:
    """Against a model of four lines: what is free, what is held, what was billed."""
    run = uuid.uuid4().hex[:24]
    free, held, ended = Decimal(0), dict[str, Decimal](), dict[str, Decimal]()
    with database.writing() as connection:
        key_id = keys.create(connection, "any order")[0].id
        for kind, number, amount in operations:
            name = f"{run}-{number}"
            known = name in held or name in ended
            if kind == "grant" and amount:
                free += amount
                assert ledger.grant(connection, key_id, amount, "") == free
            elif kind == "take" and amount:
                with expect_insufficient(free < amount):
                    ledger.grant(connection, key_id, -amount, "")
                    free -= amount
            elif kind == "reserve" and not known:
                with expect_insufficient(free < amount):
                    assert ledger.reserve(connection, key_id, name, amount) == free - amount
                    held[name] = amount
                    free -= amount
            elif kind in ("settle", "release") and known:
                reserved = held.pop(name, None)
                if reserved is not None:
                    ended[name] = min(amount, reserved) if kind == "settle" else Decimal(0)
                    free += reserved - ended[name]
                if kind == "settle":
                    assert ledger.settle(connection, name, amount) == ended[name]
                else:
                    ledger.release(connection, name)
        assert check_sums(connection, key_id) == free
        kept = {r.job_id: r.amount for r in ledger.open_reservations(connection)}
        assert {name: kept[name] for name in kept if name.startswith(run)} == held
        assert {name: ledger.billed(connection, name) for name in ended} == ended


def expect_insufficient(expected: bool) -> contextlib.AbstractContextManager[object]:
    return pytest.raises(InsufficientCreditsError) if expected else contextlib.nullcontext()


def test_two_hundred_threads_spend_what_covers_a_hundred(database: Database, key_id: int) -> None:
    amount = Decimal("0.013500001")
    grant(database, key_id, str(100 * amount))
    assert processes.reserve_many(database, key_id, amount, 200) == 100
    with database.reading() as connection:
        assert check_sums(connection, key_id) == 0
        assert len(ledger.open_reservations(connection)) == 100


def test_four_processes_spend_what_covers_a_hundred(
    database: Database, database_url: str, key_id: int
) -> None:
    amount = Decimal("0.013500001")
    grant(database, key_id, str(100 * amount))
    started = [processes.start("reserve", database_url, key_id, amount, 50) for _ in range(4)]
    assert sum(int(line) for line in go(started)) == 100
    with database.reading() as connection:
        assert check_sums(connection, key_id) == 0
        assert len(ledger.open_reservations(connection)) == 100


def test_jobs_accepted_at_once_do_not_wait_for_each_other(database: Database, key_id: int) -> None:
    """A job's row is inserted before its reservation: the key's row is then locked twice over."""
    grant(database, key_id, "1")
    if database.url.get_backend_name() == "sqlite":
        inserted = threading.Barrier(1)  # writers come one after the other there
    else:
        inserted = threading.Barrier(2, timeout=10)
    failed: list[BaseException] = []

    def accept(name: str) -> None:
        try:
            with database.writing() as connection:
                connection.execute(insert(jobs).values(**job(id=name, key_id=key_id)))
                inserted.wait()
                ledger.reserve(connection, key_id, name, Decimal("0.5"))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=accept, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    with database.reading() as connection:
        assert check_sums(connection, key_id) == 0


def test_two_ends_of_a_job_at_once(database: Database, key_id: int) -> None:
    """Settled and released from eight threads: one of them counts."""
    grant(database, key_id, "1")
    with database.writing() as connection:
        ledger.reserve(connection, key_id, "job", Decimal(1))
    told = []

    def end(index: int) -> None:
        with database.writing() as connection:
            if index % 2:
                ledger.release(connection, "job")
            told.append(ledger.settle(connection, "job", Decimal("0.25")))

    threads = [threading.Thread(target=end, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with database.reading() as connection:
        billed = ledger.billed(connection, "job")
        assert told == [billed] * 8
        assert check_sums(connection, key_id) == 1 - billed


@pytest.mark.parametrize("task", ["hold", "commit"])
def test_a_killed_process(database: Database, database_url: str, key_id: int, task: str) -> None:
    """Nothing of a transaction that was open, all of one that was committed, and no lock left."""
    grant(database, key_id, "1")
    process = processes.start(task, database_url, key_id, "job", "0.75")
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "reserved\n"]
    process.kill()
    process.communicate(timeout=10)
    committed = task == "commit"
    with database.writing() as connection:
        held = [(r.job_id, r.amount) for r in ledger.open_reservations(connection)]
        assert held == ([("job", Decimal("0.75"))] if committed else [])
        assert check_sums(connection, key_id) == (Decimal("0.25") if committed else 1)
        ledger.reserve(connection, key_id, "next", Decimal("0.25"))


STATEMENTS = [
    "UPDATE ledger SET amount = 2000000000, balance = 2000000000",
    "UPDATE ledger SET note = 'changed'",
    "DELETE FROM ledger",
    # A wrong balance, a gap, no number twice, a negative balance, a wrong sign, an unknown kind.
    "INSERT INTO ledger VALUES (9, {key}, 2, 'grant', NULL, 5, 6, 0, '')",
    "INSERT INTO ledger VALUES (9, {key}, 3, 'grant', NULL, 5, 1000000005, 0, '')",
    "INSERT INTO ledger VALUES (9, {key}, 1, 'grant', NULL, 5, 5, 0, '')",
    "INSERT INTO ledger VALUES (9, {key}, 2, 'reserve', 'j', -1000000001, -1, 0, '')",
    "INSERT INTO ledger VALUES (9, {key}, 2, 'settle', 'j', 1, 1000000001, 0, '')",
    "INSERT INTO ledger VALUES (9, {key}, 2, 'gift', NULL, 1, 1000000001, 0, '')",
    "INSERT INTO ledger VALUES (9, {key}, 2, 'reserve', NULL, -1, 999999999, 0, '')",
]
OF_SQLITE = [
    "INSERT OR REPLACE INTO ledger VALUES (1, {key}, 2, 'grant', NULL, 5, 1000000005, 0, '')"
]
OF_POSTGRESQL = ["TRUNCATE ledger", "TRUNCATE keys CASCADE"]


def test_the_database_itself_refuses_what_would_falsify_the_ledger(
    database: Database, key_id: int
) -> None:
    grant(database, key_id, "1")
    sqlite = database.url.get_backend_name() == "sqlite"
    with database.reading() as connection:
        entries = ledger.entries(connection, key_id)
    for statement in STATEMENTS + (OF_SQLITE if sqlite else OF_POSTGRESQL):
        with pytest.raises(IntegrityError), database.writing() as connection:
            connection.execute(text(statement.format(key=key_id)))
    with database.writing() as connection:
        assert ledger.entries(connection, key_id) == entries
        connection.execute(  # the same form, and true
            text(STATEMENTS[3].format(key=key_id).replace("5, 6", "5, 1000000005"))
        )


def test_a_job_is_reserved_once(database: Database, key_id: int) -> None:
    grant(database, key_id, "1")
    with database.writing() as connection:
        ledger.reserve(connection, key_id, "job", Decimal("0.1"))
    with pytest.raises(DBAPIError, match=r"(?i)unique"), database.writing() as connection:
        ledger.reserve(connection, key_id, "job", Decimal("0.1"))
    with database.reading() as connection:
        count = select(func.count()).select_from(ledger_table)
        assert connection.execute(count).scalar() == 2
