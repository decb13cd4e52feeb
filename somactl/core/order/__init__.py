"""The orders in which the control plane has keys pruned: `parse_order` reads all their forms."""

from somactl.core.order.items import MAX_DEFECTS, MAX_ITEMS, Form, Item
from somactl.core.order.json_forms import MAX_INTEGER, validate_order_id
from somactl.core.order.parsing import MAX_LINES, MAX_TEXT_BYTES, Order, content_digest, parse_order
from somactl.core.rfc3339 import MAX_TIME

__all__ = [
    "MAX_DEFECTS",
    "MAX_INTEGER",
    "MAX_ITEMS",
    "MAX_LINES",
    "MAX_TEXT_BYTES",
    "MAX_TIME",
    "Form",
    "Item",
    "Order",
    "content_digest",
    "parse_order",
    "validate_order_id",
]
