-- What people look at while the line runs: open work orders, and those closed last. Neither index holds a
-- count, so booking on an order still changes its row alone.

CREATE INDEX work_order_open   ON work_order (created_at) WHERE closed_at IS NULL;
CREATE INDEX work_order_closed ON work_order (closed_at)  WHERE closed_at IS NOT NULL;
