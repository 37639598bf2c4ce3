-- While a view is filled: every record's place in the order of this permit, which its own key gives.
CREATE TABLE scan_places (
    permit text COLLATE "C" NOT NULL,
    place bytea NOT NULL,
    event_id bytea NOT NULL,
    PRIMARY KEY (permit, place)
);
