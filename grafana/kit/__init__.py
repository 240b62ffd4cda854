"""What rules and dashboards are generated from: names, settings, and a module for each kind."""
