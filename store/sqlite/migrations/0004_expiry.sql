-- When the login of a binding ends; 0 for never, as with nearly all.
ALTER TABLE bindings ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
CREATE INDEX bindings_expiring ON bindings (expires, id) WHERE expires > 0 AND state = 'ready';
