-- By which keys it knows the relay: the fingerprints of the one in use and of the one to follow, one behind the other.
-- What it read on a link is written late.
ALTER TABLE principals ADD COLUMN pins BLOB CHECK (pins IS NULL OR length(pins) = 64);

-- Those that the token's join string names.
ALTER TABLE tokens ADD COLUMN pins BLOB CHECK (pins IS NULL OR length(pins) = 64);
