-- What docker-compose.yml needs in its PostgreSQL; run once, by the superuser.
\getenv shop_password SHOP_PASSWORD
\getenv monitor_password MONITOR_PASSWORD
create role shop login password :'shop_password';
create role monitor login connection limit 4 password :'monitor_password';
grant pg_monitor to monitor;
create database shop owner shop;
