"""SMS dialogues as data: people, tickets, then timed steps with where each must land. The format of `*.toml` here:

    title = "Two open tickets: one menu, and the answer moves the message"
    rules = ["T8", "T3"]                    # of specs/sms.md 4.3, 4.4 …
    start = "2026-11-23T09:00:00Z"          # optional; this Monday morning is the default. The firm's zone is UTC.
    numbers = ["+447700900999"]             # optional: our numbers; more than one is a sender pool

    [[people]]
    key = "ann"
    name = "Ann Carter"
    phones = ["+447700900101"]              # a customer's phones; a technician's are enrolled (verified)
    mail = "ann@example.org"                # optional
    role = "customer"                       # customer (default), technician, agent, supervisor, administrator
    unenrolled = ["+447700900301"]          # optional: phones of one of us that are not enrolled
    opted_out = false                       # optional: of all her phones

    [[tickets]]                             # numbered from 1001 in the order they stand here
    key = "leak"
    of = "ann"
    subject = "Boiler leak"
    status = "open"                         # new, open, waiting, closed
    channel = "sms"                         # sms (default) or mail: how it came
    opened = "-3d"                          # before the start; s, m, h, d
    last = "-2d"                            # newest activity; default: opened
    closed = "-1d"                          # when closed
    assignee = "tom"                        # optional

    [[steps]]                               # somebody texts us
    at = "+0m"                              # after the start; steps are in order of time
    from = "+447700900101"
    to = "+447700900999"                    # optional: our first number
    text = "Still dripping"
    media = 1                               # optional: so many pictures
    optout = "STOP"                         # optional: what the provider says it did (Twilio's OptOutType)
    lands = "leak"                          # right after it: a ticket's key, "new" (opens one), "parked" or "nowhere"
    names = "drip"                          # optional: the key by which later steps know the new ticket
    ends = "leak"                           # optional: where it stands at the end, when that differs from `lands`
    guessed = false                         # optional: true = marked as guessed when it lands
    sends = ["acknowledgement"]             # what goes to this phone by itself because of it, in order; default none
    verb = "done"                           # optional: the command that is executed (a technician's); "" = none is
    on = "leak"                             # optional: the ticket it is executed on
    as = "note"                             # optional: what the words became: message, note, answer, event
    after = { leak = { status = "closed", assignee = "tom" } }   # optional: the tickets afterwards; assignee "": nobody

    [[steps]]                               # one of us answers from the ticket page, by SMS
    at = "+5m"
    answers = "leak"
    by = "ada"
    text = "We come at three."

    [[steps]]                               # one of us gives a job to a technician (the job goes out by SMS)
    at = "+6m"
    assigns = "leak"
    by = "ada"
    to_person = "tom"

    [[steps]]                               # one of us closes a ticket on the page
    at = "+7m"
    closes = "leak"
    by = "ada"

    [[steps]]                               # the clock alone
    at = "+2h"
    clock = true
    after = { leak = { status = "open" } }

The words of `sends`: acknowledgement ("we have it, ref #1234"), menu (which ticket, or which job), echo (what was done
with a command, also "already done"), list (answers to mine, show, commands, status), usage (what can be written;
nearest words), code (a one-time code is asked for or sent), consent (confirmation of STOP, HELP or START, only where
the provider does not answer by itself), notice (something happened), job (a job is given).
"""
