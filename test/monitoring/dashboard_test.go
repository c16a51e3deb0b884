package monitoring

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// dashboard is the part of Grafana's format that the tests look at
// (https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/).
type dashboard struct {
	UID        string `json:"uid"`
	Title      string `json:"title"`
	Templating struct {
		List []struct {
			Name  string `json:"name"`
			Type  string `json:"type"`
			Query string `json:"query"`
		} `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID         int         `json:"id"`
	Type       string      `json:"type"`
	Title      string      `json:"title"`
	Datasource *datasource `json:"datasource"`
	GridPos    struct {
		H int `json:"h"`
		W int `json:"w"`
		X int `json:"x"`
		Y int `json:"y"`
	} `json:"gridPos"`
	Targets []struct {
		RefID      string      `json:"refId"`
		Datasource *datasource `json:"datasource"`
		Expr       string      `json:"expr"`
	} `json:"targets"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

// chosen is the data source that whoever looks has chosen.
var chosen = datasource{Type: "prometheus", UID: "${datasource}"}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal(read(t, "deploy", "monitoring", "dashboard.json"), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDashboardIsWellFormed(t *testing.T) {
	d := readDashboard(t)
	if d.UID == "" || d.Title == "" {
		t.Error("the dashboard has no uid or no title")
	}
	if v := d.Templating.List; len(v) != 1 || v[0].Name != "datasource" || v[0].Type != "datasource" || v[0].Query != chosen.Type {
		t.Errorf("the variables are %+v, want the data source alone", v)
	}
	titles := map[int]string{}
	taken := map[[2]int]string{}
	for _, p := range d.Panels {
		if other, twice := titles[p.ID]; twice || p.ID == 0 {
			t.Errorf("panels %q and %q have the id %d", other, p.Title, p.ID)
		}
		titles[p.ID] = p.Title
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("panels %q and %q lie on one another", other, p.Title)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q is wider than the page", p.Title)
		}
	}
}

var (
	// interval are Grafana's names for a length of time.
	interval = regexp.MustCompile(`\[\$__(rate_interval|range|interval)\]`)
	variable = regexp.MustCompile(`\$\{?\w+`)
)

func TestDashboardAsksWhatIsThere(t *testing.T) {
	all := known(t)
	for _, p := range readDashboard(t).Panels {
		if p.Type == "row" {
			continue
		}
		if p.Datasource == nil || *p.Datasource != chosen {
			t.Errorf("panel %q asks %v, want %v", p.Title, p.Datasource, chosen)
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		refs := map[string]bool{}
		for _, q := range p.Targets {
			if q.Datasource == nil || *q.Datasource != chosen {
				t.Errorf("panel %q asks %v, want %v", p.Title, q.Datasource, chosen)
			}
			if refs[q.RefID] {
				t.Errorf("panel %q has two queries %s", p.Title, q.RefID)
			}
			refs[q.RefID] = true
			expression := interval.ReplaceAllString(q.Expr, "[5m]")
			if v := variable.FindString(expression); v != "" {
				t.Errorf("panel %q: %s is no variable of the dashboard: %s", p.Title, v, q.Expr)
			}
			if err := check(expression, all); err != nil {
				t.Errorf("panel %q: %v in %s", p.Title, err, q.Expr)
			}
		}
	}
}

// TestDashboardShowsEverySelfMetric names what nobody would find.
func TestDashboardShowsEverySelfMetric(t *testing.T) {
	var queries strings.Builder
	for _, p := range readDashboard(t).Panels {
		for _, q := range p.Targets {
			queries.WriteString(q.Expr + "\n")
		}
	}
	for name := range known(t) {
		if strings.HasPrefix(name, "tidegauge_") && !regexp.MustCompile(name+`(_bucket|_sum|_count)?\b`).MatchString(queries.String()) {
			t.Errorf("no panel shows %s", name)
		}
	}
}
