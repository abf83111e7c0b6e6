-- Summaries of one account's usage read its own roll-ups only, however many other accounts there are.
create index usage_rollup_account on usage_rollup (account_id, day);
