-- Since when a view holds a record, for whoever follows it; of what is older that was not kept.
ALTER TABLE view_entries ADD COLUMN entered timestamptz;
ALTER TABLE view_entries ALTER COLUMN entered SET DEFAULT clock_timestamp();
