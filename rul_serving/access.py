"""Who asks, by the API key that a request brings.

What belongs here: the keys as this process knows them, and finding a request's principal. What does
not: what a principal may do (``guard``), keys as they are kept (``rul_store.keys``).

Every process has a table of all keys that are good, so that knowing a key costs a SHA-256 and a
look-up, and nothing waits. The table is brought up to date every ``POLL_SECONDS`` by one query for
what changed. An unknown key waits for a query that begins after it came, for it may have been made
just now, at another server; all that come meanwhile share the query, and there are at most
``1 / UNKNOWN_KEY_SECONDS`` a second.
The look-up is by the digest: its timing tells of digests, from which no key can be found.

While PostgreSQL does not answer, the table stands: known keys are good (until they expire), and an
unknown one is told to come again, for it may have been made since.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
import structlog
from pydantic import SecretStr

from rul_core.errors import Conflict, Unavailable
from rul_serving.database import Database
from rul_serving.principal import ANONYMOUS, Principal
from rul_serving.problems import Kind, Refusal
from rul_store import keys
from rul_store.keys import ApiKey, Author, Role
from rul_store.swallowed import swallow

POLL_SECONDS = 2.0
UNKNOWN_KEY_SECONDS = 0.25
FLUSH_SECONDS = 30.0
FIRST_ADMIN = "first admin"
CHALLENGE = 'Bearer realm="rul"'
_WELL_FORMED = re.compile(keys.KEY.pattern.encode())
_SECRET_AT = len(keys.PREFIX) + keys.ID_LENGTH + 1

_log = structlog.stdlib.get_logger(__name__)


class _Known(msgspec.Struct, frozen=True):
    """A good key."""

    key_id: str
    before_secret: bytes
    """All of the key but its secret."""
    expires_at: float
    """In seconds since the epoch; infinity for never."""
    principal: Principal


class Access:
    """The principals of requests.

    Args:
        database: Where the keys are; None takes every request for ``ANONYMOUS``.
    """

    def __init__(self, database: Database | None) -> None:
        self._database = database
        self._by_digest: dict[bytes, _Known] = {}
        self._digests: dict[str, bytes] = {}
        """Of good keys, by id."""
        self._newest = 0
        self._is_current = False
        self._turn = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._look_again_at = 0.0
        self._used: dict[str, float] = {}
        self._failing: set[str] = set()

    @asynccontextmanager
    async def kept_current(self, admin_key: SecretStr | None) -> AsyncGenerator[None]:
        """Follow the changes of keys until the end of the context.

        Args:
            admin_key: Made first, unless it was made before.
        """
        if self._database is None:
            yield
            return
        following = asyncio.create_task(self._follow(await self._ensure(admin_key)))
        try:
            yield
        finally:
            ending = [following] if self._looking is None else [following, self._looking]
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)
            await self._survived("key_uses", self._flush())

    def known(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal | None:
        """Whose key the headers hold; none where it is missing or unknown here."""
        if self._database is None:
            return ANONYMOUS
        given = _key_in(headers)
        if given is None:
            return None
        known = self._by_digest.get(sha256(given[_SECRET_AT:]).digest())
        if known is None or given[:_SECRET_AT] != known.before_secret:
            return None
        now = time.time()
        if now >= known.expires_at:
            return None
        self._used[known.key_id] = now
        return known.principal

    async def find(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """Whose key the headers hold, also where it was made just now.

        Raises:
            Refusal: There is no good key.
            Unavailable: It is unknown here, and PostgreSQL does not answer.
        """
        given = _key_in(headers)
        if given is None:
            raise Refusal(
                Kind.UNAUTHENTICATED,
                "there is no API key in the request; send one as `Authorization: Bearer rul_…`, "
                "or in the header X-API-Key",
                headers={"WWW-Authenticate": CHALLENGE},
            )
        if _WELL_FORMED.fullmatch(given):
            await self._look_again()
            principal = self.known(headers)
            if principal is not None:
                return principal
            if not self._is_current:
                raise Unavailable(
                    "the API key is not known here yet, and PostgreSQL does not answer; try again"
                )
        raise Refusal(
            Kind.UNAUTHENTICATED,
            "the API key is unknown, expired or revoked; an administrator can make a new one",
            headers={"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'},
        )

    def holds(self, principal: Principal) -> bool:
        """Whether the principal's key is still good; streams ask now and then."""
        if principal.key_id is None:
            return self._database is None
        known = self._by_digest.get(self._digests.get(principal.key_id, b""))
        return known is not None and time.time() < known.expires_at

    async def refresh(self) -> None:
        """Learn what changed, such as by this request; where that fails, it is tried again soon."""
        if self._database is not None:
            async with self._turn:
                work = self._learn_changes(self._database)
                self._is_current = await self._survived("keys", work)

    async def _learn_changes(self, database: Database) -> None:
        changes = await database.ask(keys.changed_since, self._newest)
        if changes.newest < self._newest:  # an earlier state was restored
            changes = await database.ask(keys.changed_since, 0)
            self._by_digest.clear()
            self._digests.clear()
        for digest, key in changes.keys:
            self._learn(digest, key)
        self._newest = changes.newest

    def _learn(self, digest: bytes, key: ApiKey) -> None:
        if key.state != "active":
            self._by_digest.pop(digest, None)
            self._digests.pop(key.key_id, None)
            return
        principal = Principal(
            name=key.name,
            key_id=key.key_id,
            # Roles of a later version of the platform give nothing here.
            roles=frozenset(role for role in Role if role.value in key.roles),
            fleets=None if key.fleets is None else frozenset(key.fleets),
        )
        self._digests[key.key_id] = digest
        self._by_digest[digest] = _Known(
            key.key_id,
            f"{key.prefix}_".encode(),
            key.expires_at.timestamp() if key.expires_at else float("inf"),
            principal,
        )

    async def _look_again(self) -> None:
        """Learn what changed because of an unknown key."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_in_turn())
        await asyncio.shield(self._looking)

    async def _look_in_turn(self) -> None:
        await asyncio.sleep(max(0.0, self._look_again_at - time.monotonic()))
        self._look_again_at = time.monotonic() + UNKNOWN_KEY_SECONDS
        self._looking = None  # who comes from now on may bring a key that this look does not see
        await self.refresh()

    async def _ensure(self, admin_key: SecretStr | None) -> SecretStr | None:
        """Make the first admin key and learn what changed; give what is still to be made."""
        if admin_key is not None and await self._survived("admin_key", self._make(admin_key)):
            admin_key = None
        await self.refresh()
        return admin_key

    async def _make(self, admin_key: SecretStr) -> None:
        if self._database is None:
            return
        author, key = Author(principal="system"), admin_key.get_secret_value()
        roles = [Role.ADMIN.value]
        try:
            made = await self._database.ask(
                keys.ensure, key, name=FIRST_ADMIN, roles=roles, by=author
            )
        except Conflict as error:  # nothing that trying again would mend
            _log.error("first admin key refused", reason=str(error))
        else:
            _log.info("first admin key is there", made_now=made)

    async def _follow(self, admin_key: SecretStr | None) -> None:
        flushed = time.monotonic()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            admin_key = await self._ensure(admin_key)
            if time.monotonic() - flushed >= FLUSH_SECONDS:
                flushed = time.monotonic()
                await self._survived("key_uses", self._flush())

    async def _flush(self) -> None:
        """Note when keys were used last."""
        used, self._used = self._used, {}
        if not used or self._database is None:
            return
        times = {key_id: datetime.fromtimestamp(at, UTC) for key_id, at in used.items()}
        try:
            await self._database.ask(keys.mark_used, times)
        except Exception:
            self._used = {**used, **self._used}
            raise

    async def _survived(self, component: str, work: Awaitable[None]) -> bool:
        """Do it, or count why not; the service outlives whatever befalls its table of keys."""
        try:
            await work
        except Exception as error:
            swallow(
                component, error, "trying again within seconds", told=component in self._failing
            )
            self._failing.add(component)
            return False
        self._failing.discard(component)
        return True


def _key_in(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key in the headers; a bearer's before one in X-API-Key."""
    found = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, given = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return given.strip()
        elif name == b"x-api-key":
            found = value
    return found
