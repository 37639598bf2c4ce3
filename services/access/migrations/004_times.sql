-- Times outside of the years that Python knows, which a time zone made of those at their ends, become the ends.
UPDATE history SET time = least(greatest(time, '0001-01-01 00:00:00+00'), '9999-12-31 23:59:59.999999+00')
    WHERE time < '0001-01-01 00:00:00+00' OR time > '9999-12-31 23:59:59.999999+00';
