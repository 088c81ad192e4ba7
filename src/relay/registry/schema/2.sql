-- The fingerprint of the key to follow the relay's of which it was told last; written late.
ALTER TABLE principals ADD COLUMN told BLOB CHECK (told IS NULL OR length(told) = 32);
