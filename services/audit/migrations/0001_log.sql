-- The log: lines of JSON, numbered from 0 without a gap. What is searched by follows from the line, and cannot be set.
CREATE TABLE entries (
    number bigint PRIMARY KEY,
    line text NOT NULL,
    at text COLLATE "C" GENERATED ALWAYS AS (line::jsonb ->> 'at') STORED,
    actor text COLLATE "C" GENERATED ALWAYS AS (line::jsonb ->> 'actor') STORED,
    action text COLLATE "C" GENERATED ALWAYS AS (line::jsonb ->> 'action') STORED,
    permit text COLLATE "C" GENERATED ALWAYS AS (line::jsonb ->> 'permit') STORED
);
CREATE INDEX ON entries (at, number);
CREATE INDEX ON entries (actor, number);
CREATE INDEX ON entries (action, number);
CREATE INDEX ON entries (permit, number) WHERE permit IS NOT NULL;

-- The perfect trees over them (RFC 9162): level 0 are the entries' own hashes.
CREATE TABLE nodes (
    level smallint NOT NULL,
    index bigint NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (level, index)
);

-- The signed heads, as they are in the second place.
CREATE TABLE checkpoints (size bigint PRIMARY KEY, note text NOT NULL);

-- Against accidents. Whoever owns the tables can take this away, and is then found by the checkpoints.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'the audit log is only ever added to'; END $$;
CREATE TRIGGER only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON nodes FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse();
