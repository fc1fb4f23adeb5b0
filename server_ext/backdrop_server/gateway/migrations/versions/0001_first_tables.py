"""Keys, the ledger, jobs, and what gateways share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SQLITE_TRIGGERS = (
    """
    CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger
    BEGIN SELECT RAISE(ABORT, 'entries of the ledger are never changed'); END
    """,
    """
    CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger
    BEGIN SELECT RAISE(ABORT, 'entries of the ledger are never deleted'); END
    """,
    # REPLACE deletes without asking the trigger above, so a taken id is refused here.
    """
    CREATE TRIGGER ledger_continues BEFORE INSERT ON ledger
    WHEN EXISTS (SELECT 1 FROM ledger WHERE id = NEW.id)
      OR NEW.sequence <> 1 + coalesce(
           (SELECT max(sequence) FROM ledger WHERE key_id = NEW.key_id), 0)
      OR NEW.balance <> NEW.amount + coalesce(
           (SELECT balance FROM ledger WHERE key_id = NEW.key_id AND sequence = NEW.sequence - 1), 0)
    BEGIN SELECT RAISE(ABORT, 'an entry of the ledger continues the one before'); END
    """,
)
POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      RAISE integrity_constraint_violation
        USING MESSAGE = 'entries of the ledger are never changed or deleted';
    END $$
    """,
    """
    CREATE TRIGGER ledger_no_change BEFORE UPDATE OR DELETE ON ledger
    FOR EACH ROW EXECUTE FUNCTION ledger_refuse()
    """,
    """
    CREATE TRIGGER ledger_no_truncate BEFORE TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()
    """,
    """
    CREATE FUNCTION ledger_continue() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.sequence <> 1 + coalesce(
           (SELECT max(sequence) FROM ledger WHERE key_id = NEW.key_id), 0)
      OR NEW.balance <> NEW.amount + coalesce(
           (SELECT balance FROM ledger WHERE key_id = NEW.key_id AND sequence = NEW.sequence - 1), 0)
      THEN
        RAISE integrity_constraint_violation
          USING MESSAGE = 'an entry of the ledger continues the one before';
      END IF;
      RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER ledger_continues BEFORE INSERT ON ledger
    FOR EACH ROW EXECUTE FUNCTION ledger_continue()
    """,
)


def upgrade() -> None:
    """Make all tables, and the triggers that keep the ledger append-only."""
    _keys()
    _ledger()
    _jobs()
    _shared_by_gateways()
    sqlite = op.get_bind().dialect.name == "sqlite"
    for trigger in SQLITE_TRIGGERS if sqlite else POSTGRESQL_TRIGGERS:
        op.execute(trigger)


def _keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("prefix", sa.String(8), nullable=False, unique=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        sa.Column("requests_per_minute", sa.Integer),
        sa.CheckConstraint("requests_per_minute > 0", name="keys_rate_is_positive"),
    )


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("key_id", sa.Integer, sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(7), nullable=False),
        sa.Column("job_id", sa.String(32)),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.UniqueConstraint("key_id", "sequence", name="ledger_one_sequence"),
        sa.UniqueConstraint("job_id", "kind", name="ledger_once_per_job"),
        sa.CheckConstraint("balance >= 0", name="ledger_balance_is_not_negative"),
        sa.CheckConstraint("(kind = 'grant') = (job_id IS NULL)", name="ledger_jobs"),
        sa.CheckConstraint(
            "(kind = 'grant' AND amount <> 0) OR (kind = 'reserve' AND amount <= 0)"
            " OR (kind = 'settle' AND amount <= 0) OR (kind = 'release' AND amount >= 0)",
            name="ledger_kinds_and_signs",
        ),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("key_id", sa.Integer, sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("kind", sa.String(5), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("gateway", sa.String(64)),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("triton", sa.Text),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("evaluations", sa.Integer, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("billed", sa.BigInteger),
        sa.Column("seconds", sa.Double),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("error_status", sa.Integer),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("body_digest", sa.String(64)),
        sa.Column("swept_at", sa.Double),
        sa.Column("cancel_requested_at", sa.Double),
        sa.Column("webhook_state", sa.Text),
        sa.UniqueConstraint("key_id", "idempotency_key", name="jobs_one_idempotency_key"),
        sa.CheckConstraint("kind IN ('wait', 'queue')", name="jobs_kinds"),
        sa.CheckConstraint(
            "status IN ('QUEUED', 'PROCESSING', 'COMPLETED', 'FAILED')", name="jobs_statuses"
        ),
        sa.CheckConstraint(
            "reserved >= 0 AND billed >= 0 AND billed <= reserved", name="jobs_bill_is_reserved"
        ),
    )
    op.create_index("jobs_by_status", "jobs", ["status"])
    op.create_index("jobs_by_key", "jobs", ["key_id", "created_at"])
    op.create_index("jobs_by_end", "jobs", ["ended_at"])


def _shared_by_gateways() -> None:
    op.create_table(
        "gateways",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("heartbeat_at", sa.Double, nullable=False),
        sa.Column("url", sa.Text),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "rate_windows",
        sa.Column("key_id", sa.Integer, sa.ForeignKey("keys.id"), primary_key=True),
        sa.Column("window_start", sa.Integer, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
    )
