-- What an operator may say of a model beside its price, so that holds fit it: versioned as prices are, absent: as before.
alter table model_price
  add hold_step_tokens       int check (hold_step_tokens > 0),        -- a stream is held so many tokens ahead; null: as a whole
  add image_tokens           int check (image_tokens > 0),            -- most tokens of one image; null: no images
  add prompt_overhead_tokens int check (prompt_overhead_tokens >= 0), -- most that its template adds to a prompt
  add default_max_tokens     int check (default_max_tokens > 0);      -- of an answer whose length the caller leaves open
