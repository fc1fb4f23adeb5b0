"""The gateway's tables. Times are seconds since 1970 in UTC; amounts are exact (``Credits``)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from backdrop_server.gateway.money import Credits

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", String(8), nullable=False, unique=True),
    # SHA-256 of the whole key in hex: keys are 256 random bits, so a slow hash adds nothing.
    Column("digest", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("requests_per_minute", Integer),
    CheckConstraint("requests_per_minute > 0", name="keys_rate_is_positive"),
)

# Append-only, which triggers hold in the database too. No foreign key to jobs: what was paid is
# kept for longer than the job itself.
ledger = Table(
    "ledger",
    metadata,
    # SQLite counts up by itself only in a column of the type INTEGER.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("key_id", Integer, ForeignKey("keys.id"), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("kind", String(7), nullable=False),
    Column("job_id", String(32)),
    Column("amount", Credits, nullable=False),
    Column("balance", Credits, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("note", Text, nullable=False),
    UniqueConstraint("key_id", "sequence", name="ledger_one_sequence"),
    UniqueConstraint("job_id", "kind", name="ledger_once_per_job"),
    CheckConstraint("balance >= 0", name="ledger_balance_is_not_negative"),
    CheckConstraint("(kind = 'grant') = (job_id IS NULL)", name="ledger_jobs"),
    CheckConstraint(
        "(kind = 'grant' AND amount <> 0) OR (kind = 'reserve' AND amount <= 0)"
        " OR (kind = 'settle' AND amount <= 0) OR (kind = 'release' AND amount >= 0)",
        name="ledger_kinds_and_signs",
    ),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),  # uuid4 in hex
    Column("key_id", Integer, ForeignKey("keys.id"), nullable=False),
    Column("kind", String(5), nullable=False),  # wait: v1, queue: v2
    Column("status", String(10), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("gateway", String(64)),  # the process that holds the job
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("triton", Text),  # URL
    Column("request", Text, nullable=False),  # JSON: options and names of stored pictures
    Column("evaluations", Integer, nullable=False),  # of the UNet
    Column("reserved", Credits, nullable=False),
    Column("billed", Credits),
    Column("seconds", Double),  # billed
    Column("result", Text),  # JSON
    Column("error", Text),
    Column("error_status", Integer),
    Column("idempotency_key", Text),
    Column("body_digest", String(64)),
    Column("swept_at", Double),
    Column("cancel_requested_at", Double),
    Column("webhook_state", Text),
    UniqueConstraint("key_id", "idempotency_key", name="jobs_one_idempotency_key"),
    CheckConstraint("kind IN ('wait', 'queue')", name="jobs_kinds"),
    CheckConstraint(
        "status IN ('QUEUED', 'PROCESSING', 'COMPLETED', 'FAILED')", name="jobs_statuses"
    ),
    CheckConstraint(
        "reserved >= 0 AND billed >= 0 AND billed <= reserved", name="jobs_bill_is_reserved"
    ),
    Index("jobs_by_status", "status"),
    Index("jobs_by_key", "key_id", "created_at"),
    Index("jobs_by_end", "ended_at"),
)

gateways = Table(
    "gateways",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("started_at", Double, nullable=False),
    Column("heartbeat_at", Double, nullable=False),
    Column("url", Text),
)

# What signs links and webhooks.
secrets = Table(
    "secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

rate_windows = Table(
    "rate_windows",
    metadata,
    Column("key_id", Integer, ForeignKey("keys.id"), primary_key=True),
    Column("window_start", Integer, primary_key=True),  # minutes since 1970
    Column("count", Integer, nullable=False),
)
