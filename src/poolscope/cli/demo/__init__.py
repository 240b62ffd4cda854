"""`poolscope demo`: a pool on a real PostgreSQL, from calm to trouble and back.

`scenario` says what happens, `load` and `database` make it happen, `readings` and `words` turn
what the pool says into numbers and sentences, `view`, `plain` and `report` show these, and
`command` puts all of it together.
"""
