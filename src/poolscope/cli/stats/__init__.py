"""`poolscope stats`: the pools behind `/metrics` addresses, as a table or as JSON.

`address` says where, `fetch` gets the pages, `parse` finds the series of each pool, `pools` makes
numbers of them, `table` and `document` show them, `command` does it once or again and again.
"""
