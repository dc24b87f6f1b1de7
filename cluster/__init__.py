"""The composition root: settings, local services, Ray, jobs, the command line."""
