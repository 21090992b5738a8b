"""The values that flow through Ringback: frozen, typed, free of I/O.

A message, a click and a tick become values at the edge; `decide` turns them, with the `Facts`, into one `Decision`;
`store.apply` writes it down. State words are declared here, once (DESIGN.md 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class Temporary(Exception):
    """What went wrong may go right later: try again (SMTP 4xx, HTTP 503, exit 75)."""


class Permanent(Exception):
    """Trying again will not help: tell a person (SMTP 5xx, HTTP 4xx)."""


class Later(Temporary):
    """Not processed, and safe to try again, not before `seconds` from now (HTTP 429 with Retry-After)."""

    def __init__(self, words: str, seconds: float = 0.0) -> None:
        super().__init__(words)
        self.seconds = seconds


class Uncertain(Temporary):
    """The whole message was handed over and no answer came: it may have arrived."""


class Refused(Permanent):
    """The provider will not take it: `code` is the provider's, `why` is ours."""

    def __init__(self, words: str, code: str, why: Refusal) -> None:
        super().__init__(words)
        self.code, self.why = code, why


class Channel(StrEnum):
    """How something reached us, or by which way an entry was made."""

    MAIL = "mail"
    SMS = "sms"
    CALL = "call"
    WEB = "web"
    API = "api"
    CLOCK = "clock"


class Medium(StrEnum):
    """How something leaves us."""

    MAIL = "mail"
    SMS = "sms"
    WEBHOOK = "webhook"


class InboundState(StrEnum):
    """What became of a received message: `failed` is our error, `parked` waits for a person."""

    NEW = "new"
    DONE = "done"
    DUPLICATE = "duplicate"
    LOOP = "loop"
    PARKED = "parked"
    FAILED = "failed"


class OutboxState(StrEnum):
    """The life of one message to one recipient."""

    HELD = "held"
    READY = "ready"
    SENDING = "sending"
    SENT = "sent"
    UNCERTAIN = "uncertain"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Kind(StrEnum):
    """What an entry of the timeline is."""

    MESSAGE = "message"  # somebody outside wrote
    AUTOMATIC = "automatic"  # a machine wrote: out of office, bounce, report
    ANSWER = "answer"  # one of us wrote to the outside
    NOTE = "note"  # one of us wrote to one of us
    EVENT = "event"  # something changed


class Status(StrEnum):
    """Where a ticket of the kind `support` stands."""

    NEW = "new"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


class ContactKind(StrEnum):
    CUSTOMER = "customer"
    VENDOR = "vendor"
    EMPLOYEE = "employee"
    PROSPECT = "prospect"


class Role(StrEnum):
    ADMINISTRATOR = "administrator"
    AGENT = "agent"
    TECHNICIAN = "technician"
    SUPERVISOR = "supervisor"
    SALES = "sales"


class MessageClass(StrEnum):
    """Who or what wrote a message (email.md, C)."""

    HUMAN = "human"
    AUTO_REPLY = "auto-reply"
    OUT_OF_OFFICE = "ooo"
    BOUNCE_HARD = "bounce-hard"
    BOUNCE_SOFT = "bounce-soft"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    COMPLAINT = "complaint"
    BULK = "bulk"
    CHALLENGE = "challenge"
    CALENDAR = "calendar"
    UNKNOWN_MACHINE = "unknown-machine"


class NoticeKind(StrEnum):
    """Why something is sent; names the template."""

    ANSWER = "answer"  # one of us writes to a customer
    ACKNOWLEDGEMENT = "acknowledgement"  # "we have it, #1001"
    NOTICE = "notice"  # "something came in", to one of us
    ECHO = "echo"  # "this is what I did with your message", to one of us
    CODE = "code"  # a one-time code or link
    ALARM = "alarm"  # to the administrator
    MENU = "menu"  # which of your tickets is this about?
    LIST = "list"  # what a phone asked to be told: mine, show, status, commands
    USAGE = "usage"  # it was not understood, and what can be written
    JOB = "job"  # a job is given to somebody in the field
    CONSENT = "consent"  # "you will get no more SMS": the one SMS that still goes after STOP
    CLOSING = "closing"  # "your request is done", to the customer


class Refusal(StrEnum):
    """Why an SMS did not arrive; what happens then is a table in `decide.undelivered` (sms.md 4.8)."""

    NUMBER = "number"  # no such number, a landline, a dead line
    OPTED_OUT = "opted-out"
    HANDSET = "handset"  # switched off or out of reach
    FILTERED = "filtered"  # taken for spam, or blocked
    CONFIG = "config"  # we asked for something that the provider does not do
    ACCOUNT = "account"  # wrong password, suspended, unregistered: nothing goes until a person acts
    OVERLOAD = "overload"  # the provider's queue
    UNKNOWN = "unknown"


class Delivery(StrEnum):
    """What a provider says of an SMS it took, in its own order (sms.md 4.7)."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    SENDING = "sending"
    SENT = "sent"
    UNDELIVERED = "undelivered"
    FAILED = "failed"
    CANCELED = "canceled"
    DELIVERED = "delivered"
    READ = "read"
    PRICED = "priced"  # says only what it cost


class QuestionKind(StrEnum):
    """What was last asked of, or listed to, a phone."""

    MENU = "menu"  # which ticket do you mean? something is held until the answer
    UNASKED = "unasked"  # the same, where nothing may be sent: it only ends by a guess
    LIST = "list"  # lines that "done 2" refers to
    JOB = "job"  # will you take this job? a bare "ok" says yes
    CODE = "code"  # a command that waits for its one-time code
    ENROL = "enrol"  # a phone that has to show its code before it gives commands


# Sent without a person having written it: these wait when the day's limit is reached, all others never do.
BY_ITSELF = frozenset(
    {
        NoticeKind.ACKNOWLEDGEMENT,
        NoticeKind.MENU,
        NoticeKind.LIST,
        NoticeKind.USAGE,
        NoticeKind.ECHO,
        NoticeKind.NOTICE,
        NoticeKind.CLOSING,
        NoticeKind.ALARM,
    }
)


class Purpose(StrEnum):
    """What a signed token is for (DESIGN.md 7)."""

    CUSTOMER_REPLY = "c"
    STAFF_ANSWER = "a"
    STAFF_NOTE = "n"
    BOUNCE = "b"
    MESSAGE_ID = "m"
    PSEUDO_REFERENCE = "r"
    LOOP = "l"


class Proof(StrEnum):
    """How sure we are that the sender is who From says (email.md 18, 19)."""

    PASSED = "passed"  # aligned DKIM or DMARC pass, or an authenticated or allow-listed path
    NONE = "none"  # nothing said; not the same as "unverified"
    FAILED = "failed"  # a trusted dmarc=fail


# -- what comes in -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who handed a message over, and for whom. `path` is smtp, lmtp, imap, ingest or web.

    `sender` is "" for <> by SMTP and LMTP, and for "not known" elsewhere, unless `null` says that it was <>.
    """

    sender: str = ""
    recipients: tuple[str, ...] = ()
    path: str = "smtp"
    peer: str = ""
    authenticated: bool = False
    null: bool = False

    @property
    def is_null(self) -> bool:
        """Was it sent with the null return path, which nobody may answer (RFC 5321 4.5.5)?"""
        return self.null or (not self.sender and self.path in ("smtp", "lmtp"))


@dataclass(frozen=True, slots=True)
class Arrival:
    """One thing received, raw, not yet understood: what `desk.accept` commits before anything is answered.

    `key` is unique for what counts as the same delivery (DESIGN.md 3, Keys).
    """

    key: str
    channel: Channel
    raw: bytes
    envelope: Envelope
    received: datetime


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A webhook as it came, free of Flask. `public_url` is built from the config, never from the Host header."""

    method: str
    public_url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class RawResponse:
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Media:
    """A picture on its way: where the provider keeps it, and what it says it is."""

    url: str
    type: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Sms:
    """A text message received. `sender` and `recipient` as the provider wrote them; `id` is the provider's own.

    `opt_out` is what the provider did by itself: STOP, START, HELP, or "".
    """

    driver: str
    id: str
    sender: str
    recipient: str
    text: str
    media: tuple[Media, ...] = ()
    opt_out: str = ""
    country: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an SMS of ours. `outbox` is our id from the callback's URL, None when it does not say."""

    driver: str
    id: str
    status: Delivery
    outbox: int | None = None
    code: str = ""
    why: Refusal | None = None  # of failed and undelivered
    words: str = ""
    segments: int = 0
    price: str = ""  # decimal, as positive cost
    currency: str = ""


@dataclass(frozen=True, slots=True)
class OutSms:
    """An SMS to be sent. `id` is the outbox row's, for the callback's URL; `attempts` counts this one."""

    id: int
    sender: str
    recipient: str
    text: str
    callback: str = ""
    attempts: int = 1
    since: datetime | None = None  # of the first attempt: where a look-up begins


@dataclass(frozen=True, slots=True)
class Caps:
    """What a provider of SMS can do."""

    two_way: bool = True
    receipts: bool = True
    media: bool = False
    price: bool = False
    handles_opt_out: bool = False  # answers STOP by itself
    max_chars: int = 1600
    can_look_up: bool = False  # can be asked whether it took a message
    polls: bool = False


@dataclass(frozen=True, slots=True)
class NamedAddress:
    """A display name and a normalised mailbox ("" where there is none)."""

    name: str
    address: str


NOBODY = NamedAddress("", "")


@dataclass(frozen=True, slots=True)
class FilePart:
    """An attachment whose bytes are already in the blob store. `cid` is its Content-ID without brackets."""

    sha256: str
    name: str
    type: str
    size: int
    cid: str = ""
    inline: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the trace: what was looked at, what was found, how long it took; `hit` decided."""

    name: str
    found: str
    ms: float = 0.0
    hit: bool = False


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A message, understood. Parsed once, at the edge; nobody downstream sees bytes, dicts or headers.

    `text` is what the sender newly wrote; `quoted` and `signature` are what was folded away; together they are all
    of the plain text. `message_id`, `in_reply_to`, `references` are without angle brackets, oldest first.
    """

    channel: Channel
    sender: NamedAddress  # sender of record (email.md 20)
    author: NamedAddress  # From as written
    subject: str
    text: str
    message_id: str
    content_hash: str
    quoted: str = ""
    signature: str = ""
    html: str = ""
    reply_to: str = ""
    to: tuple[NamedAddress, ...] = ()
    cc: tuple[NamedAddress, ...] = ()
    delivered_to: tuple[str, ...] = ()
    in_reply_to: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    date: datetime | None = None
    files: tuple[FilePart, ...] = ()
    category: MessageClass = MessageClass.HUMAN
    evidence: tuple[str, ...] = ()
    no_automatic_answer: str = ""  # why none may be sent, "" when it may
    loop_token: str = ""
    sender_is_doubtful: bool = False  # more than one From, or defects in it: never staff
    authentication: tuple[str, ...] = ()  # Authentication-Results headers above the first foreign Received
    signed: bool = False  # carries a DKIM-Signature
    forwarded: bool = False
    notes: tuple[str, ...] = ()  # what was cut or repaired, in words for the page
    steps: tuple[Step, ...] = ()


# -- what is known -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Token:
    """A signed token, read but not yet believed: `addresses.genuine` says whether it is ours."""

    purpose: Purpose
    key: str
    number: int
    entry: int
    who: int
    mac: str
    text: str


@dataclass(frozen=True, slots=True)
class Account:
    """One of us: a contact with a login."""

    id: int
    contact: int
    name: str
    address: str
    roles: frozenset[Role]
    generation: int
    active: bool = True
    bounced: bool = False  # mail to the address came back
    phone: str = ""  # enrolled, and it wants SMS: "" when there is none
    supervisor: int | None = None
    time_zone: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """Who an address belongs to, as far as known. `contact` is None for a stranger; `account` for people outside."""

    address: str
    address_id: int | None = None
    contact: int | None = None
    name: str = ""
    kind: ContactKind = ContactKind.CUSTOMER
    organisation: int | None = None
    account: Account | None = None
    opted_out: bool = False
    bounced: bool = False
    shared: bool = False  # a phone that several people have


@dataclass(frozen=True, slots=True)
class Reach:
    """One way to write to somebody, and whether he wants it."""

    medium: Medium
    address: str
    opted_out_at: datetime | None = None
    usable: bool = True  # neither opted out, nor known as dead
    time_zone: str = ""


@dataclass(frozen=True, slots=True)
class TicketFacts:
    """What deciding needs to know of a ticket."""

    number: int
    inbox: str
    status: Status
    subject: str
    requester: int | None
    requester_address: str
    assignee: int | None
    closed_at: datetime | None
    merged_into: int | None
    participants: frozenset[str]  # every address on the ticket: the requester's, Cc, guests
    last_entry: int
    organisation: int | None = None
    updated_at: datetime | None = None
    snoozed_until: datetime | None = None
    escalation_level: int = 0
    reach: tuple[Reach, ...] = ()  # of the requester, as he last wrote first


@dataclass(frozen=True, slots=True)
class Clues:
    """Everything in a message that may name a ticket, strongest source first (email.md 15); pure, from the text."""

    tokens: tuple[tuple[str, Token], ...]  # (source, token): reply-token, message-id, pseudo-reference, loop
    references: tuple[str, ...]  # ids that are not ours, nearest first
    numbers: tuple[int, ...]  # from subject tags, last first
    inbox: str = ""  # the inbox it was sent to


@dataclass(frozen=True, slots=True)
class Reference:
    """A Message-ID seen before, and where it lies."""

    value: str
    ticket: int
    entry: int | None
    ancestor: bool = False  # only ever seen in somebody's References


@dataclass(frozen=True, slots=True)
class Twin:
    """Another received message with the same Message-ID."""

    inbound: int
    content_hash: str
    ticket: int | None
    entry: int | None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a person said about a parked message: retry, release, allow, new, ticket <n>, or file (not needed).

    Nobody (`by` None) said it: the sender's own answer to a menu, or, with the word `guess`, an answer that never came.
    """

    word: str
    ticket: int | None = None
    by: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database knows, read in the transaction that will write the decision."""

    now: datetime
    sender: Person
    tickets: Mapping[int, TicketFacts] = field(default_factory=dict)
    references: tuple[Reference, ...] = ()
    twins: tuple[Twin, ...] = ()
    accounts: Mapping[int, Account] = field(default_factory=dict)  # by id: assignees, staff tokens
    staff: tuple[Account, ...] = ()  # agents and administrators, who are told of what nobody owns
    blocked: str = ""  # the block that fits the sender, "" when none
    allowed: bool = False
    counts: Mapping[tuple[str, str, str], int] = field(default_factory=dict)  # (counter, subject, hour or day)
    entry_times: Mapping[int, datetime] = field(default_factory=dict)  # of entries that staff tokens name
    token_addresses: Mapping[int, str] = field(default_factory=dict)  # address ids that customer tokens name
    outbox: Mapping[int, tuple[int | None, str, int | None]] = field(
        default_factory=dict
    )  # id -> (ticket, to, account)
    ruling: Ruling | None = None
    same_again: tuple[int, ...] = ()  # tickets of the same words from this sender within ten minutes, newest first
    known_ids: frozenset[str] = frozenset()  # of the message's References, those stored already
    orders: TextFacts | None = None  # when one of us gives a command by mail


# -- what is known of a text message -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone number, and who has it. `account`: it is enrolled by one of us, and gives commands."""

    number: str
    people: tuple[Person, ...] = ()
    account: Account | None = None
    opted_out: bool = False
    commands_off_until: datetime | None = None
    automatic_off_until: datetime | None = None
    time_zone: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was asked of a phone. `number` is ours; `options`: what each line stands for; None is "something
    new"."""

    id: int
    number: str
    phone: str
    kind: QuestionKind
    options: tuple[int | None, ...]
    command: str
    held: int | None
    code: str
    tries: int
    created_at: datetime
    expires_at: datetime
    state: str


@dataclass(frozen=True, slots=True)
class SentText:
    """An SMS of ours to the phone."""

    at: datetime
    ticket: int | None
    kind: NoticeKind
    number: str
    text: str


@dataclass(frozen=True, slots=True)
class Heard:
    """An SMS that came from the phone before. `ticket` is where it lies now, `landed` where it was put at first,
    `question` what it waits for, or waited for."""

    inbound: int
    at: datetime
    ticket: int | None
    landed: int | None
    entry: int | None
    state: InboundState
    reason: str
    content_hash: str
    subject: str
    question: int | None


@dataclass(frozen=True, slots=True)
class Told:
    """What went to somebody because of a command: still held, gone, or taken back."""

    outbox: int
    kind: NoticeKind
    state: OutboxState
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Ordered:
    """A command that one of us gave before. `before` are the columns of the ticket as they were, of those that nobody
    has changed since; `overtaken` says that somebody has."""

    entry: int
    ticket: int
    verb: str
    at: datetime
    before: Mapping[str, Any]
    undone: bool
    overtaken: bool = False
    told: tuple[Told, ...] = ()


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What the database knows about a text message, read in the transaction that will write the decision.

    `candidates` are the tickets of all people with this phone, open or closed not long ago, newest activity first;
    `jobs` those that are given to one of us. Lists of the past are newest first.
    """

    now: datetime
    at: datetime  # when it was sent
    phone: Phone
    number: str  # ours, that was written to
    tickets: Mapping[int, TicketFacts] = field(default_factory=dict)
    candidates: tuple[int, ...] = ()
    jobs: tuple[int, ...] = ()
    questions: tuple[Asked, ...] = ()
    sent: tuple[SentText, ...] = ()
    heard: tuple[Heard, ...] = ()
    bindings: tuple[tuple[str, int, datetime], ...] = ()  # (our number, ticket, when): a pool's conversations
    orders: tuple[Ordered, ...] = ()
    accounts: Mapping[int, Account] = field(default_factory=dict)
    staff: tuple[Account, ...] = ()
    blocked: bool = False
    new_tickets: int = 0  # from this phone within the hour
    commands: int = 0  # from this phone within ten minutes
    wrong_codes: int = 0  # from this phone within the hour
    codes_sent: int = 0  # to this phone within the hour, to enrol it
    codes_for_account: int = 0  # the same, to whatever phones for one account
    on_its_way: tuple[int, ...] = ()  # SMS to this phone, because it is one of ours, that have not left
    ruling: Ruling | None = None
    waits_for: int | None = None  # the question whose answer this very message waited for
    code: str = ""  # a fresh one, should one be needed

    def open_questions(self, kind: QuestionKind) -> tuple[Asked, ...]:
        """Those of a kind that can still be answered, newest first."""
        return tuple(q for q in self.questions if q.kind is kind and q.state == "open" and q.expires_at > self.now)


# -- what is decided ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewContact:
    """A person seen for the first time."""

    name: str
    address: str
    medium: Medium = Medium.MAIL
    kind: ContactKind = ContactKind.CUSTOMER


@dataclass(frozen=True, slots=True)
class NewTicket:
    inbox: str
    subject: str
    requester_address: str
    kind: str = "support"
    status: Status = Status.NEW
    priority: str = "normal"
    team: str = ""
    assignee: int | None = None
    acquisition: str = "mail"


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A line of the timeline. `author` is an address or an account's; `reason` says why it landed here."""

    kind: Kind
    channel: Channel
    author_name: str = ""
    author_address: str = ""
    account: int | None = None
    public: bool = True
    reason: str = ""
    subject: str = ""
    text: str = ""
    quoted: str = ""
    html: str = ""
    files: tuple[FilePart, ...] = ()
    message_ids: tuple[str, ...] = ()  # references this entry is found by
    ancestors: tuple[str, ...] = ()  # ids it names that we never saw
    media: tuple[Media, ...] = ()  # pictures that are still with the provider
    media_of: tuple[str, str] = ("", "")  # (driver, our number) to fetch them by
    data: Mapping[str, Any] = field(default_factory=dict)  # of events: what changed, from, to


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to one recipient, to become an outbox row. `entry` is an index into the decision's entries.

    `key` may hold `{ticket}` and `{entry}`, filled when the row is written.
    """

    kind: NoticeKind
    medium: Medium
    recipient: str
    key: str
    entry: int | None = None
    account: int | None = None  # of the recipient, when one of us
    hold_seconds: float = 0.0
    needs_release: bool = False  # held until a person says so
    numbers: tuple[str, ...] = ()  # of an SMS: which of our numbers it may go from
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Count:
    """One more of something that is limited."""

    counter: str
    subject: str


@dataclass(frozen=True, slots=True)
class Ask:
    """A question that is now open. `held` says that this very message waits for the answer."""

    number: str
    phone: str
    kind: QuestionKind
    expires_at: datetime
    options: tuple[int | None, ...] = ()
    command: str = ""
    held: bool = False
    code: str = ""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A phone becomes one of a contact's; `verified` lets it give commands, False takes that away."""

    contact: int
    phone: str
    verified: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be written, all of it, with its reason. `ticket` is None with neither `new_ticket` nor a match."""

    state: InboundState
    reason: str
    trace: tuple[Step, ...] = ()
    ticket: int | None = None
    new_ticket: NewTicket | None = None
    contact: NewContact | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)  # columns of the ticket
    entries: tuple[NewEntry, ...] = ()
    notices: tuple[Notice, ...] = ()
    participants: tuple[tuple[str, str], ...] = ()  # (address, role: cc, guest, watcher)
    counts: tuple[Count, ...] = ()
    address_changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # address -> columns
    outbox_changes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # outbox id -> columns
    blocks: tuple[tuple[str, bool], ...] = ()  # (address or domain, refused?)
    alarms: tuple[tuple[str, str], ...] = ()  # (name, words): stand on every page until somebody has acted
    results: tuple[tuple[int, Receipt], ...] = ()  # (outbox id, what became of it)
    asks: tuple[Ask, ...] = ()
    question_changes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    waits_for: int | None = None  # the open question whose answer this message waits for, too
    answers: tuple[tuple[int, Ruling], ...] = ()  # questions whose waiting messages are decided again, by this ruling
    enrolments: tuple[Enrolment, ...] = ()
    moved: tuple[int, ...] = ()  # entries that now lie on this decision's ticket
    secret: bool = False  # the words of the message are a code: no list shows them
    remember: bool = False  # the first entry keeps the changed columns as they were: it can be undone
    also: tuple[Decision, ...] = ()  # what happens to other tickets, in the same transaction


@dataclass(frozen=True, slots=True)
class Written:
    """What `store.apply` made of a decision: numbers a page or a test may want."""

    ticket: int | None
    entries: tuple[int, ...]
    outbox: tuple[int, ...]


# -- what one of us does on a page or the command line -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to the people on a ticket. `then` is "", "wait" or "close" (with `reason`).

    `seen` is the newest entry the writer had before his eyes, 0 when unknown: the stale-reply guard. `by` is mail or
    SMS; None as the customer last wrote.
    """

    ticket: int
    text: str
    files: tuple[FilePart, ...] = ()
    then: str = ""
    reason: str = ""
    seen: int = 0
    by: Medium | None = None


@dataclass(frozen=True, slots=True)
class Remark:
    """An internal note."""

    ticket: int
    text: str
    files: tuple[FilePart, ...] = ()


@dataclass(frozen=True, slots=True)
class Assign:
    """`assignee` is an account, None for nobody."""

    ticket: int
    assignee: int | None


@dataclass(frozen=True, slots=True)
class Close:
    ticket: int
    reason: str


@dataclass(frozen=True, slots=True)
class Reopen:
    ticket: int


@dataclass(frozen=True, slots=True)
class Read:
    """The ticket was opened by somebody who works on it."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Write:
    """A new mail or SMS to somebody, which opens a ticket. `to` is a mail address or a phone number as typed; an SMS
    needs no subject. `nonce` makes the form's second click harmless."""

    inbox: str
    to: str
    name: str
    subject: str
    text: str
    files: tuple[FilePart, ...] = ()
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class Spam:
    """Closes the ticket as spam; with `block` its sender is refused from now on."""

    ticket: int
    block: bool


@dataclass(frozen=True, slots=True)
class Undo:
    """Takes back what has not left yet: every held outbox row of this entry."""

    entry: int


@dataclass(frozen=True, slots=True)
class Release:
    """Sends a held outbox row now, or tries a dead one again."""

    outbox: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A ruling on a mailroom row."""

    inbound: int
    ruling: Ruling


@dataclass(frozen=True, slots=True)
class MessageOn:
    """A message from outside, and the ticket it lies on now."""

    entry: int
    ticket: int
    author: str
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Move:
    """A message that lies on the wrong ticket, `source`, goes to another, None for a new one; both tell it. 0 for
    wherever it lies now."""

    entry: int
    ticket: int | None
    source: int = 0


@dataclass(frozen=True, slots=True)
class Enrol:
    """A phone from which one of us may give commands, once it has shown its code. `phone` as typed."""

    account: int
    phone: str


@dataclass(frozen=True, slots=True)
class Verify:
    """The code that came to the phone, typed on the page."""

    account: int
    phone: str
    code: str


@dataclass(frozen=True, slots=True)
class Revoke:
    """A lost phone: at once it gives no commands any more."""

    account: int
    phone: str


Action = (
    Answer
    | Remark
    | Assign
    | Close
    | Reopen
    | Read
    | Write
    | Spam
    | Undo
    | Release
    | Rule
    | Move
    | Enrol
    | Verify
    | Revoke
)


# -- what is sent ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A claimed outbox row: everything sending needs; `rendered` is None before the first attempt."""

    id: int
    ticket: int | None
    entry: int | None
    kind: NoticeKind
    medium: Medium
    recipient: str
    account: int | None
    attempts: int
    created: datetime
    rendered: bytes | None
    message_id: str
    envelope_sender: str
    data: Mapping[str, Any]
    blob: str = ""  # where `rendered` is kept when it is large
    number: str = ""  # of an SMS: which of our numbers it goes from


@dataclass(frozen=True, slots=True)
class Sent:
    """The other side took it. `provider_id` is its name for it; `words` its last answer; `segments` 0 = not said."""

    provider_id: str = ""
    words: str = ""
    segments: int = 0
    sender: str = ""  # our number, when the provider chose it


def utc_now() -> datetime:
    """The present, in UTC. Called only at the edges; everywhere else time is an argument."""
    return datetime.now(UTC)
