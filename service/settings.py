"""Every setting of the service, read from the environment with the prefix ``UNLEARN_``.

Only ``service.main``, ``workers.app``, ``workers.cli`` and the migrations read it; everything
else receives what it needs as arguments. Nothing is read at import.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from importlib import metadata
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, computed_field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

#: Public secrets, so that development needs no setup. Refused outside development mode.
DEVELOPMENT_SUBJECT_KEY = "development-only-subject-digest-key"
DEVELOPMENT_SIGNING_KEY = base64.b64encode(b"development-only-signing-key-32b").decode()

MINIMUM_SECRET_LENGTH = 32

#: A bucket's name and, after a slash, a prefix; no user, password, port or query.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/-]*)?")


class Settings(BaseSettings):
    """All settings; immutable once read."""

    model_config = SettingsConfigDict(
        env_prefix="UNLEARN_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # it may be a secret
    )

    mode: Literal["development", "production"] = Field(
        "development", description="development accepts the built-in secrets; production refuses"
    )
    state_dir: Path = Field(
        Path("state"), description="where the embedded form keeps database, broker and store"
    )
    database_url: str = Field(
        "", description="SQLAlchemy URL; empty: SQLite in the state directory"
    )
    broker_url: str = Field("", description="Celery broker; empty: files in the state directory")
    store_dir: Path | None = Field(None, description="checkpoints and arrays; empty: state/store")
    store_url: str = Field(
        "",
        description="instead of UNLEARN_STORE_DIR: a directory, or s3://bucket/prefix, with "
        "AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY set, or a "
        "location of a scheme that an installed package adds",
    )
    store_timeout_seconds: float = Field(
        30.0, gt=0, description="a bucket's answer that takes longer is given up"
    )
    data_root: Path | None = Field(
        None, description="server-side data sources must lie under it; empty: state/data"
    )

    subject_key: SecretStr = Field(
        SecretStr(DEVELOPMENT_SUBJECT_KEY),
        description="HMAC key of subject and record digests, at least 32 characters",
    )
    subject_key_previous: SecretStr | None = Field(
        None, description="the key before the last rotation; old digests still match"
    )
    signing_key: SecretStr = Field(
        SecretStr(DEVELOPMENT_SIGNING_KEY),
        description="Ed25519 seed that signs audit reports: 32 bytes, base64",
    )
    retired_public_keys: str = Field(
        "", description="public keys of earlier signing keys (base64, comma-separated), published"
    )
    retired_model_signing_keys: str = Field(
        "",
        description="earlier public keys for weights (PEM without its first and last line, "
        "comma-separated), published",
    )

    log_origin: str = Field(
        "unlearn.invalid/audit-chain",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._~:/-]{0,126}$",
        description="name of the audit chain as a transparency log: your host and a path",
    )

    database_connect_seconds: float = Field(
        3.0, ge=2, description="PostgreSQL: a connection not made within this is given up"
    )
    database_statement_seconds: float = Field(
        8.0, gt=0, description="PostgreSQL: a request's statement not done within this is 503"
    )
    database_lock_seconds: float = Field(
        5.0, gt=0, description="PostgreSQL: same, for a statement that waits for a lock"
    )
    database_work_seconds: float = Field(
        60.0, gt=0, description="PostgreSQL: same, for a worker, which tries again later"
    )
    database_bulk_seconds: float = Field(
        3600.0,
        gt=0,
        description="PostgreSQL: same, for commands of unlearn over everything there is",
    )
    database_keepalive_seconds: float = Field(
        10.0,
        gt=0,
        description="PostgreSQL: silence after which TCP probes a connection, then ends it",
    )
    broker_timeout_seconds: float = Field(
        3.0, gt=0, description="Redis: a connection or an answer that takes longer is given up"
    )

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(0, ge=0, description="CPU threads of a compute process; 0: half the cores")
    compute_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="processes of this machine that compute a step together; a GPU for each",
    )
    compute_nodes: int = Field(
        1,
        ge=1,
        le=64,
        description="machines whose processes compute a step together; on the others runs "
        "unlearn compute-node",
    )
    compute_endpoint: str = Field(
        "",
        description="host:port of the worker at which they meet; the next port, too",
    )
    poll_seconds: float = Field(1.0, gt=0, description="how often a worker looks for due work")
    beat_seconds: float = Field(10.0, gt=0, description="how often beat wakes the workers")
    heartbeat_seconds: float = Field(
        5.0, gt=0, description="how often a worker says that it lives; gone after four times this"
    )
    lease_seconds: float = Field(30.0, gt=0, description="a lease is renewed every third of this")
    batch_timeout_seconds: float = Field(
        900.0, gt=0, description="a batch that computes longer is stopped and tried again"
    )
    training_timeout_seconds: float = Field(24 * 3600.0, gt=0, description="same, for training")
    training_state_seconds: float = Field(
        5.0, ge=0, description="a training's state is kept after an epoch, at most this often"
    )
    max_attempts: int = Field(3, ge=1, description="tries of a batch before it is split")
    backoff_seconds: float = Field(2.0, ge=0, description="first pause after a failed try; doubles")
    grace_seconds: float = Field(
        20.0, ge=0, description="time a stopping worker gives its batch before handing it back"
    )
    orphan_grace_seconds: float = Field(
        3600.0, gt=0, description="age at which a file that nothing refers to is swept"
    )

    log_format: Literal["text", "json"] = Field(
        "text", description="how log lines are written: text, or json, an object a line"
    )
    max_body_bytes: int = Field(1_048_576, gt=0, description="largest JSON body")
    max_upload_bytes: int = Field(2 * 1024**3, gt=0, description="largest checkpoint upload")
    max_records_per_request: int = Field(10_000, gt=0, description="records one request may name")
    max_queue: int = Field(100_000, gt=0, description="open deletion requests before 429")
    requests_per_minute: int = Field(
        0, ge=0, description="API calls per key and minute; 0: no limit"
    )
    previews_per_minute: int = Field(
        30, ge=0, description="previews of deletion requests per key and minute; 0: no limit"
    )
    sign_ins_per_minute: int = Field(
        10, ge=0, description="failed sign-ins to the console per address and minute; 0: no limit"
    )
    console_session_minutes: float = Field(
        60.0, gt=0, description="a sign-in to the console ends after this, however it is used"
    )

    regulation: Literal["gdpr", "ccpa", "custom"] = Field(
        "gdpr",
        description="when a request is due that names no regulation: gdpr, a calendar month; ccpa, "
        "45 days; custom, UNLEARN_DUE_DAYS",
    )
    due_days: int = Field(30, ge=1, le=3650, description="days until a request of custom is due")
    webhook_timeout_seconds: float = Field(
        15.0, gt=0, le=60, description="a webhook's answer that takes longer is a failure"
    )
    webhook_connections: int = Field(
        8, ge=1, le=64, description="webhooks to which a worker delivers at once"
    )
    webhook_rate: float = Field(
        25.0,
        ge=1,
        le=10_000,
        description="events sent to one webhook in a second, at most, and at least 1: the rest of "
        "a burst follows",
    )
    webhook_http: bool = Field(False, description="webhooks may have http:// URLs, too")
    source_buckets: str = Field(
        "",
        description="folders of buckets that sources may be read from, comma-separated, such as "
        "s3://data/exports; endpoint and credentials are those of the store's environment "
        "(AWS_ENDPOINT_URL, ...)",
    )
    webhook_networks: str = Field(
        "",
        description="networks inside which webhooks may be delivered, comma-separated, such as "
        "10.1.0.0/16; without: public addresses only",
    )

    mlflow_tracking_uri: str = Field(
        "",
        pattern=r"^(https?://[^@\s]+)?$",
        description="MLflow server whose model registry is kept in step with what is live; empty: "
        "none; credentials are those of MLflow's environment (MLFLOW_TRACKING_TOKEN, ...)",
    )
    mlflow_experiment: str = Field(
        "unlearn", min_length=1, description="MLflow experiment whose runs hold the weights"
    )
    mlflow_alias: str = Field(
        "production",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="alias in the model registry that follows the live version",
    )
    mlflow_timeout_seconds: float = Field(
        15.0,
        ge=1,
        le=120,
        description="an answer of the MLflow server that takes longer is a failure",
    )

    opendsr_domain: str = Field(
        "", description="domain under which OpenDSR requests arrive; empty: none are taken"
    )
    opendsr_key_file: Path | None = Field(
        None, description="PEM file of the private key (RSA or EC) that signs OpenDSR answers"
    )
    opendsr_certificate_file: Path | None = Field(
        None, description="PEM file of its certificate for the domain, with the chain after it"
    )
    opendsr_identities: str = Field(
        "controller_customer_id:raw,email:raw",
        description="what the subject ids of the datasets are, as OpenDSR names it: identity_type "
        "and identity_format, comma-separated",
    )

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented way; mypy cannot see it
    @property
    def database(self) -> str:
        """Return the SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.state_dir.resolve()}/ledger.db"

    @property
    def store(self) -> Path:
        """Return the directory of checkpoints and arrays, if the store is a directory."""
        if self.store_url and "://" not in self.store_url:
            return Path(self.store_url)
        return self.store_dir or self.state_dir / "store"

    @property
    def store_location(self) -> str:
        """Return the store's location for ``models_store.open_store``."""
        return self.store_url or str(self.store)

    @property
    def scratch(self) -> Path:
        """Return the directory of uploads, if the store is not a directory itself."""
        return self.state_dir / "uploads"

    @property
    def sources(self) -> Path:
        """Return the directory under which server-side data sources must lie."""
        return self.data_root or self.state_dir / "data"

    @property
    def allowed_buckets(self) -> tuple[str, ...]:
        """Return the folders of buckets that sources may be read from, without a last slash."""
        given = (one.strip().rstrip("/") for one in self.source_buckets.split(","))
        return tuple(one for one in given if one)

    @property
    def fetched(self) -> Path:
        """Return the directory to which sources of a bucket are fetched while they are read."""
        return self.state_dir / "fetched"

    @model_validator(mode="after")
    def _refuse_unclear_buckets(self) -> Self:
        for one in self.allowed_buckets:
            if not (one.startswith("s3://") and _BUCKET.fullmatch(one.removeprefix("s3://"))):
                raise ValueError(
                    "UNLEARN_SOURCE_BUCKETS must be s3://bucket or s3://bucket/folder, "
                    "comma-separated"
                )
        return self

    @model_validator(mode="after")
    def _refuse_unclear_stores(self) -> Self:
        if self.store_url and self.store_dir is not None:
            raise ValueError("UNLEARN_STORE_URL and UNLEARN_STORE_DIR are both set; set one")
        scheme, separator, rest = self.store_url.partition("://")
        if separator and not (_BUCKET.fullmatch(rest) if scheme == "s3" else _opens(scheme)):
            raise ValueError(
                "UNLEARN_STORE_URL must be a directory, or s3://bucket/prefix, or a location of a "
                "scheme that an installed package adds"
            )
        return self

    @model_validator(mode="after")
    def _refuse_unclear_processes(self) -> Self:
        if self.compute_processes * self.compute_nodes > 1 and ":" in self.device:
            raise ValueError(
                "UNLEARN_DEVICE names one GPU and several processes compute together, of which "
                "each takes one: set it to auto, cuda or cpu"
            )
        if self.compute_nodes > 1 and self.compute_address is None:
            raise ValueError(
                "UNLEARN_COMPUTE_NODES is above 1: set UNLEARN_COMPUTE_ENDPOINT to the worker's "
                "host and a port, such as 10.1.0.5:29500; the next port is used, too"
            )
        return self

    @property
    def compute_address(self) -> tuple[str, int] | None:
        """Return the host and the first port at which the nodes of a computation meet."""
        host, _, port = self.compute_endpoint.rpartition(":")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 2**16 - 1:
            return None
        return host, int(port)

    @property
    def networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Return the networks inside which webhooks may be delivered."""
        given = (one.strip() for one in self.webhook_networks.split(","))
        return tuple(ipaddress.ip_network(one) for one in given if one)

    @model_validator(mode="after")
    def _refuse_unclear_networks(self) -> Self:
        try:
            _ = self.networks
        except ValueError:
            raise ValueError(
                "UNLEARN_WEBHOOK_NETWORKS must be networks such as 10.1.0.0/16 (the address where "
                "the network begins), separated by commas"
            ) from None
        return self

    @model_validator(mode="after")
    def _refuse_weak_secrets(self) -> Self:
        _signing_seed(self.signing_key.get_secret_value())
        if self.mode == "development":
            return self
        subject_key = self.subject_key.get_secret_value()
        if subject_key == DEVELOPMENT_SUBJECT_KEY:
            raise ValueError("UNLEARN_SUBJECT_KEY is not set; make one with: openssl rand -hex 32")
        if len(subject_key) < MINIMUM_SECRET_LENGTH or len(set(subject_key)) < 8:
            raise ValueError("UNLEARN_SUBJECT_KEY is too weak; make one with: openssl rand -hex 32")
        if self.signing_key.get_secret_value() == DEVELOPMENT_SIGNING_KEY:
            raise ValueError(
                "UNLEARN_SIGNING_KEY is not set; make one with: openssl rand -base64 32"
            )
        return self

    @property
    def signing_seed(self) -> bytes:
        """Return the 32 bytes of the Ed25519 private key."""
        return _signing_seed(self.signing_key.get_secret_value())


def _opens(scheme: str) -> bool:
    """Return whether an installed package opens such stores (``models_store.opening``)."""
    return bool(metadata.entry_points(group="models_store.stores", name=scheme))


def _signing_seed(text: str) -> bytes:
    try:
        seed = base64.b64decode(text, validate=True)
    except binascii.Error:
        seed = b""
    if len(seed) != 32 or len(set(seed)) < 8:
        raise ValueError(
            "UNLEARN_SIGNING_KEY must be 32 random bytes in base64; "
            "make one with: openssl rand -base64 32"
        )
    return seed
