-- The patient index. Keys are bytes; large tables are partitioned by the hash of the key they are looked up by.

CREATE SEQUENCE subject_seq;
CREATE SEQUENCE link_version_seq;

-- One distinct identity as a source knows it. `patient` is its patient's founding subject; `settled` says that its
-- own candidates have been searched (another subject's search may have given it a patient before).
CREATE TABLE subjects (
    subject bytea PRIMARY KEY,
    seq bigint NOT NULL,
    patient bytea,
    link_version bigint,
    settled boolean NOT NULL DEFAULT false,
    source text NOT NULL,
    status text NOT NULL,
    block bytea NOT NULL
) PARTITION BY HASH (subject);

-- Whom a token may be: a search is one look-up here.
CREATE TABLE subject_tokens (
    token bytea NOT NULL,
    subject bytea NOT NULL,
    system text NOT NULL,
    PRIMARY KEY (token, subject)
) PARTITION BY HASH (token);

-- Every pair that was decided on, whatever the outcome, with its evidence and the version of the rules.
-- `guarded` is a link that the partition does not follow, because it would join what must not be joined.
CREATE TABLE edges (
    a bytea NOT NULL,
    b bytea NOT NULL,
    outcome text NOT NULL,
    method text NOT NULL,
    rank integer NOT NULL,
    weight double precision NOT NULL,
    guarded boolean NOT NULL DEFAULT false,
    reason text NOT NULL,
    evidence bytea NOT NULL,
    rule_version text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (a, b)
) PARTITION BY HASH (a);

-- The pairs again, from both ends, so that a component is walked by look-ups in one partition each.
CREATE TABLE neighbours (
    subject bytea NOT NULL,
    other bytea NOT NULL,
    PRIMARY KEY (subject, other)
) PARTITION BY HASH (subject);

-- The current state of each record, and in `record_states` the few others that were accepted.
CREATE TABLE records (
    event_id bytea PRIMARY KEY,
    subject bytea NOT NULL,
    revision text COLLATE "C" NOT NULL,
    digest text NOT NULL,
    type text NOT NULL,
    retracted boolean NOT NULL,
    correction boolean NOT NULL,
    backfill boolean NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    linked_at timestamptz NOT NULL DEFAULT now(),
    states integer NOT NULL DEFAULT 1
) PARTITION BY HASH (event_id);

CREATE TABLE record_states (
    event_id bytea NOT NULL,
    subject bytea NOT NULL,
    revision text COLLATE "C" NOT NULL,
    digest text NOT NULL,
    type text NOT NULL,
    retracted boolean NOT NULL,
    correction boolean NOT NULL,
    backfill boolean NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    linked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, backfill, partition, "offset")
) PARTITION BY HASH (event_id);

-- How many, kept by each slot for itself so that no two workers wait for one row.
CREATE TABLE counts (
    slot integer PRIMARY KEY,
    subjects bigint NOT NULL,
    patients bigint NOT NULL,
    records bigint NOT NULL,
    unlinkable bigint NOT NULL
);

DO $$
DECLARE
    large text;
BEGIN
    FOREACH large IN ARRAY ARRAY[
        'subjects', 'subject_tokens', 'edges', 'neighbours', 'records', 'record_states'] LOOP
        FOR number IN 0..7 LOOP
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF %I FOR VALUES WITH (MODULUS 8, REMAINDER %s) WITH (fillfactor = 85)',
                large || '_' || number, large, number);
        END LOOP;
    END LOOP;
END
$$;
