-- Which word on the permit holds: it counts changes. Orders to fill the view of an older one are nothing any more.
ALTER TABLE permits ADD COLUMN revision integer NOT NULL DEFAULT 0;
