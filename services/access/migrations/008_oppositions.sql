-- Oppositions in force, and whom else each withholds: subjects who may be the same person.
CREATE TABLE oppositions (
    event_id bytea PRIMARY KEY,
    subject bytea NOT NULL,
    withholds text NOT NULL                     -- * for everything, or the source whose records it is about
);
CREATE INDEX oppositions_by_subject ON oppositions (subject);

CREATE TABLE opposition_suspects (
    suspect bytea NOT NULL,
    subject bytea NOT NULL,
    PRIMARY KEY (suspect, subject)
);
CREATE INDEX opposition_suspects_by_subject ON opposition_suspects (subject);

CREATE TABLE opposition_reaches (subject bytea PRIMARY KEY, version bigint NOT NULL);
