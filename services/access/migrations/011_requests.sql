-- Whom officers have erased, as `contracts.messages.mark_of` keeps them. Of their records `history` keeps the id and the
-- revision, under an empty subject.
CREATE TABLE erased (mark bytea PRIMARY KEY);

-- What people ask for: access or erasure.
CREATE TABLE requests (
    event_id bytea PRIMARY KEY,
    subject bytea,                              -- NULL once erased
    kind text NOT NULL,
    source text NOT NULL,
    received date NOT NULL,                     -- the day the person asked: deadlines run from it
    taken_back boolean NOT NULL
);

-- What officers have done about it, in order.
CREATE TABLE request_acts (
    request bytea NOT NULL,
    id text NOT NULL,                           -- the act's own, by which whoever did it knows it again
    act text NOT NULL,
    actor text NOT NULL,
    at timestamptz NOT NULL,
    details bytea NOT NULL,
    records bigint NOT NULL,                    -- how many were erased
    place bigserial NOT NULL,
    PRIMARY KEY (request, id)
);
