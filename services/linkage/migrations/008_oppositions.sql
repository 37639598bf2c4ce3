-- Oppositions by their event, and whom else each withholds: those who may be the same person.
CREATE TABLE oppositions (
    event_id bytea PRIMARY KEY,
    subject bytea NOT NULL,
    in_force boolean NOT NULL
);
CREATE INDEX oppositions_in_force ON oppositions (subject) WHERE in_force;

CREATE TABLE opposition_suspects (
    subject bytea NOT NULL,
    suspect bytea NOT NULL,
    PRIMARY KEY (subject, suspect)
);
