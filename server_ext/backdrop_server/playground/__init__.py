"""The web playground's page: static files that ``gateway.page`` serves, as they lie here."""
