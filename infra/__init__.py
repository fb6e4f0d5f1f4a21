"""What runs or deploys mabeam: command line, daemons, embedded servers, deployment files."""
