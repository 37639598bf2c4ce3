# What Keycloak's image has, where it cannot be pulled: the same version from its Maven artifact (`keycloak` of the context).
ARG BASE
FROM ${BASE}
RUN apt-get update -qq && apt-get install -qq --yes --no-install-recommends openjdk-17-jre-headless >/dev/null
COPY --chown=1000:0 keycloak /opt/keycloak
RUN chmod 755 /opt/keycloak/bin/*.sh && mkdir /opt/keycloak/data && chown 1000:0 /opt/keycloak /opt/keycloak/data
USER 1000
