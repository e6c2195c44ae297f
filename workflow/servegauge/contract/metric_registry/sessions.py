"""Sessions: requests that follow each other. A session counts where it began: in the window, with its first request."""

from servegauge.contract.metric import COMPARED, LESS, TABLE, Metric

SESSION = Metric(
    name="session",
    title="Session",
    formula="last token of its last answer - schedule of its first request, with the pauses between them",
    stamps="on the row of a session's first request, where all of them are ok",
    note="pauses are those of the workload, the same on every platform",
    unit="s",
    position=56,
    better=LESS,
    per_request=lambda requests: requests.session_seconds(pauses=True),
    failed=lambda requests: requests.sessions - requests.sessions_answered,
    pooled="sessions that began in the window",
    views={"p50": (COMPARED, TABLE), "p90": (COMPARED,)},
)

SESSION_ANSWERS = Metric(
    name="session_answers",
    title="Session without pauses",
    formula="sum over its requests of last token - scheduled",
    stamps="on the row of a session's first request, where all of them are ok",
    note="what the server makes a person wait for in a session",
    unit="s",
    position=57,
    better=LESS,
    per_request=lambda requests: requests.session_seconds(pauses=False),
    failed=lambda requests: requests.sessions - requests.sessions_answered,
    pooled="sessions that began in the window",
    views={"p50": (COMPARED, TABLE), "p90": (COMPARED,)},
)

SESSIONS = Metric(
    name="sessions",
    title="Sessions",
    formula="sessions that began in the window; null for a load without sessions",
    unit="sessions",
    position=58,
    per_cell=lambda window: window.sessions or None,
    whole=True,
)

SESSIONS_ANSWERED = Metric(
    name="sessions_answered",
    title="Sessions answered",
    formula="sessions that began in the window of which every request is ok",
    unit="sessions",
    position=59,
    per_cell=lambda window: window.sessions_answered if window.sessions else None,
    whole=True,
)
