-- Tokens that more subjects carry than the rules allow: they decide nothing, and are never searched again.

CREATE TABLE common_tokens (
    token bytea PRIMARY KEY,
    marked_at timestamptz NOT NULL DEFAULT now()
);
