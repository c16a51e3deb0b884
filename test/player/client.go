package player

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Client controls a Player in another process. Its methods do what those of Player do.
type Client struct {
	// URL is the player's.
	URL string
}

// SetRequests is Player.SetRequests.
func (c Client) SetRequests(ctx context.Context, requests ...Requests) error {
	return c.put(ctx, "requests", requests)
}

// SetUsage is Player.SetUsage.
func (c Client) SetUsage(ctx context.Context, usages ...Usage) error {
	return c.put(ctx, "usage", usages)
}

// SetSeries is Player.SetSeries.
func (c Client) SetSeries(ctx context.Context, set string, series ...Series) error {
	if series == nil {
		series = []Series{}
	}
	return c.put(ctx, "series/"+url.PathEscape(set), series)
}

func (c Client) put(ctx context.Context, what string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("player: %s: %w", what, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.URL+"/_control/"+what, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("player: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("player: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("player: reading the answer to %s: %w", what, err)
	}
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("player: %s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	return nil
}
