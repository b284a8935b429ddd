"""Several hosts on one machine: network namespaces with the real programs of a deployment in them.

`make rehearse-hosts` cuts links, kills processes and updates bundles under load, and recounts after each what was
answered, sampled and compared. Pods and Kubernetes itself are not rehearsed here.
"""
