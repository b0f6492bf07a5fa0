"""Jobs: submitted to a site, continued in the next allocation, waited for and cancelled."""
