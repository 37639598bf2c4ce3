-- Rule versions, which never change; the one that decides; and how far the subjects have been searched again under it.

CREATE TABLE rule_versions (
    name text PRIMARY KEY,
    body bytea NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE active_rules (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    name text NOT NULL REFERENCES rule_versions,
    operator text NOT NULL,
    switched_at timestamptz NOT NULL
);

-- An index that is not empty was linked by the first version, whose every field had its default.
INSERT INTO rule_versions (name, body) SELECT '2026-1', '\x81a46e616d65a6323032362d31' WHERE EXISTS (SELECT FROM edges);
INSERT INTO active_rules (name, operator, switched_at) SELECT name, '', to_timestamp(0) FROM rule_versions;

-- Of the subjects after `since` up to `until`, those up to `reached` are done.
CREATE TABLE rescans (
    since bytea NOT NULL,
    reached bytea NOT NULL,
    until bytea PRIMARY KEY
);

-- What an earlier version made of a pair, where a later one made something else of it.
CREATE TABLE former_edges (LIKE edges, replaced_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX former_edges_pair ON former_edges (a, b);
