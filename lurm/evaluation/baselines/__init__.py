"""Every system that the service is compared with, one file per family, behind the interface of `method`; `registry` names them."""
