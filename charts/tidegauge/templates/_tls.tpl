{{/*
The certificate comes from one of four: cert-manager; a Secret that is there; the values;
or the chart signs it.
*/}}
{{- define "tidegauge.tlsFrom" -}}
{{- $from := list -}}
{{- if .Values.certManager.enabled }}{{ $from = append $from "certManager.enabled" }}{{ end -}}
{{- if .Values.tls.existingSecret }}{{ $from = append $from "tls.existingSecret" }}{{ end -}}
{{- if .Values.tls.enable }}{{ $from = append $from "tls.enable" }}{{ end -}}
{{- if gt (len $from) 1 -}}
{{- fail (printf "%s: the certificate can come from one of them only" (join " and " $from)) -}}
{{- end -}}
{{- first $from | default "chart" -}}
{{- end -}}

{{/* The Secret with the adapter's certificate. */}}
{{- define "tidegauge.tlsSecret" -}}
{{- default (include "tidegauge.ownTLSSecret" .) .Values.tls.existingSecret -}}
{{- end -}}

{{/* The one that the chart makes. */}}
{{- define "tidegauge.ownTLSSecret" -}}
{{- include "tidegauge.fullname" . }}-tls
{{- end -}}

{{/* That Secret, if it is there and Helm can ask the cluster, as JSON. */}}
{{- define "tidegauge.tlsFound" -}}
{{- lookup "v1" "Secret" (include "tidegauge.namespace" .) (include "tidegauge.tlsSecret" .) | default dict | toJson -}}
{{- end -}}

{{/* What a certificate that the chart signs is for: one that was signed for this stays. */}}
{{- define "tidegauge.signedFor" -}}
{{- include "tidegauge.host" . }} for {{ int .Values.tls.selfSignedDays }} days
{{- end -}}

{{/*
The certificate that the chart signs, as JSON: ca.crt, tls.crt and tls.key as in the
Secret, and `bundle`, the authorities that the API server is to take: the one before as
well if there is a new one, as pods have the old certificate for a minute more. It is made
once, as several templates need the same; the authority's key is kept nowhere.
*/}}
{{- define "tidegauge.selfSigned" -}}
{{- if not .Values.selfSigned -}}
{{- $found := include "tidegauge.tlsFound" . | fromJson -}}
{{- $data := get $found "data" | default dict -}}
{{- $was := get $data "ca.crt" | default "" -}}
{{- $for := dig "metadata" "annotations" "tidegauge.dev/signed-for" "" $found -}}
{{- $complete := and $was (get $data "tls.crt") (get $data "tls.key") -}}
{{- $bundle := $was -}}
{{- if not (and $complete (eq $for (include "tidegauge.signedFor" .))) -}}
{{- $days := int .Values.tls.selfSignedDays -}}
{{- $host := include "tidegauge.host" . -}}
{{- $ca := genCAWithKey (printf "%s-ca" (include "tidegauge.fullname" .)) $days (genPrivateKey "ecdsa") -}}
{{- $certificate := genSignedCertWithKey $host nil (list $host (trimSuffix ".svc" $host) (printf "%s.cluster.local" $host)) $days $ca (genPrivateKey "ecdsa") -}}
{{- $bundle = b64enc (printf "%s%s" $ca.Cert (ternary (b64dec $was) "" (contains "BEGIN CERTIFICATE" (b64dec $was)))) -}}
{{- $data = dict "ca.crt" (b64enc $ca.Cert) "tls.crt" (b64enc $certificate.Cert) "tls.key" (b64enc $certificate.Key) -}}
{{- end -}}
{{- $_ := set .Values "selfSigned" (set (pick $data "ca.crt" "tls.crt" "tls.key") "bundle" $bundle) -}}
{{- end -}}
{{- .Values.selfSigned | toJson -}}
{{- end -}}

{{/* The authority in the values, if it is one: prometheus-adapter's chart has a comment in its place. */}}
{{- define "tidegauge.givenCA" -}}
{{- if contains "BEGIN CERTIFICATE" .Values.tls.ca }}{{ b64enc .Values.tls.ca }}{{ end -}}
{{- end -}}

{{/* What the API server knows the adapter's certificate by; nothing if cert-manager puts it in. */}}
{{- define "tidegauge.caBundle" -}}
{{- $from := include "tidegauge.tlsFrom" . -}}
{{- if eq $from "certManager.enabled" -}}
{{- else if include "tidegauge.givenCA" . -}}
{{- include "tidegauge.givenCA" . -}}
{{- else if eq $from "chart" -}}
{{- get (include "tidegauge.selfSigned" . | fromJson) "bundle" -}}
{{- else if eq $from "tls.existingSecret" -}}
{{- $found := dig "data" "ca.crt" "" (include "tidegauge.tlsFound" . | fromJson) -}}
{{- required (printf "tls.ca: give the authority of the certificate as PEM, as Helm finds no ca.crt in the Secret %s/%s" (include "tidegauge.namespace" .) .Values.tls.existingSecret) $found -}}
{{- else -}}
{{- fail "tls.ca: give the authority of tls.certificate as PEM" -}}
{{- end -}}
{{- end -}}

{{/* The Certificate of which cert-manager puts the authority into the APIServices. */}}
{{- define "tidegauge.injectFrom" -}}
{{- include "tidegauge.namespace" . }}/{{ include "tidegauge.fullname" . }}{{ ternary "-ca" "" (empty .Values.certManager.issuerRef) -}}
{{- end -}}
