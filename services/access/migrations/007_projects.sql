-- The lives of calls and projects, step by step; where each stands follows from its steps.
CREATE TABLE project_steps (
    subject text COLLATE "C" NOT NULL,          -- call/<id> or project/<id>
    number integer NOT NULL,
    id text NOT NULL,                           -- the act's own, by which whoever did it knows it again
    act text NOT NULL,
    actor text NOT NULL,
    role text NOT NULL,
    at timestamptz NOT NULL,
    details bytea NOT NULL,
    place bigserial NOT NULL,                   -- the order over all subjects
    PRIMARY KEY (subject, number)
);
