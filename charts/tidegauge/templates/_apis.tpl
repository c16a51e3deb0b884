{{/* Which APIs this adapter serves: their groups, separated by blanks. */}}
{{- define "tidegauge.apis" -}}
{{- $custom := .Values.apiServices.custom -}}
{{- if eq (toString $custom) "auto" -}}
{{- $custom = or (include "tidegauge.stockRules" .) .Values.rules.custom -}}
{{- end -}}
{{- $resource := .Values.apiServices.resource -}}
{{- if eq (toString $resource) "auto" -}}
{{- $resource = .Values.rules.resource -}}
{{- end -}}
{{- if .Values.apiServices.external }} external.metrics.k8s.io {{ end -}}
{{- if $custom }} custom.metrics.k8s.io {{ end -}}
{{- if $resource }} metrics.k8s.io {{ end -}}
{{- end -}}

{{/*
The APIServices of the release, as a list in JSON. Each has name, group, version, priority,
and value, which is its switch among apiServices.
*/}}
{{- define "tidegauge.apiServices" -}}
{{- $apis := include "tidegauge.apis" . -}}
{{- $own := list -}}
{{- range list
  (dict "value" "external" "group" "external.metrics.k8s.io" "version" "v1beta1" "priority" 100)
  (dict "value" "custom" "group" "custom.metrics.k8s.io" "version" "v1beta1" "priority" 100)
  (dict "value" "custom" "group" "custom.metrics.k8s.io" "version" "v1beta2" "priority" 200)
  (dict "value" "resource" "group" "metrics.k8s.io" "version" "v1beta1" "priority" 100)
-}}
{{- if contains (printf " %s " .group) $apis -}}
{{- $own = append $own (set . "name" (printf "%s.%s" .version .group)) -}}
{{- end -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}

{{/*
Those of them that lead to somebody else's Service now, if Helm can ask the cluster, as a list
in JSON. Each has name, value and service. A Service of another name in the same namespace is
nobody else's if the APIService is this release's: then its objects were renamed.
*/}}
{{- define "tidegauge.servedElsewhere" -}}
{{- $found := list -}}
{{- range include "tidegauge.apiServices" . | fromJsonArray -}}
{{- $api := lookup "apiregistration.k8s.io/v1" "APIService" "" .name | default dict -}}
{{- with dig "spec" "service" nil $api -}}
{{- $annotations := dig "metadata" "annotations" dict $api | default dict -}}
{{- $renamed := and (eq (get $annotations "meta.helm.sh/release-name") $.Release.Name) (eq (get $annotations "meta.helm.sh/release-namespace") $.Release.Namespace) -}}
{{- $own := and (eq .namespace (include "tidegauge.namespace" $)) (or $renamed (eq .name (include "tidegauge.fullname" $))) -}}
{{- if not $own -}}
{{- $found = append $found (dict "name" (dig "metadata" "name" "" $api) "service" (printf "%s/%s" .namespace .name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Fails if an API would be taken from somebody, unless the values say that it is to be. */}}
{{- define "tidegauge.takeNothing" -}}
{{- $taken := list -}}
{{- if not .Values.apiServices.takeOver -}}
{{- range include "tidegauge.servedElsewhere" . | fromJsonArray -}}
{{- $taken = append $taken (printf "%s leads to the Service %s" .name .service) -}}
{{- end -}}
{{- end -}}
{{- with $taken -}}
{{- $keep := "" -}}
{{- if $.Release.IsUpgrade -}}
{{- $keep = " (if this release had it before, `kubectl annotate apiservice NAME helm.sh/resource-policy=keep` first, as Helm would delete it)" -}}
{{- end -}}
{{- fail (printf "%s: a cluster has one server of an API, and whoever reads metrics there would lose them. Leave it there by apiServices.external=false (custom, resource)%s; or take it over by apiServices.takeOver=true, see https://github.com/tidegauge/tidegauge/tree/main/charts/tidegauge#from-another-adapter" (join ", " .) $keep) -}}
{{- end -}}
{{- end -}}
